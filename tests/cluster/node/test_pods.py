"""The chart's core on a node: real pods, whose readings come out of the API and are not lost with any pod."""

from deploy.local.ready import wait_until
from tests.cluster.node.installed import PARTS, SECONDS, SERVERS, SYSTEM, WORKLOADS, Asking

ACKNOWLEDGED = "pipeline_bridge_messages_acknowledged_total"


def test_every_pod_becomes_ready(installed):
    assert [name for name in (*PARTS, *SERVERS) if not installed.all_ready(name)] == []
    for name in ("gateway", "users", "worker", "bridge"):
        assert len(installed.pods(name)) == 2


def test_the_node_tells_what_its_pods_use(installed):
    assert wait_until(lambda: "kafka-0" in installed.run("kubectl", "top", "pods", "-n", SYSTEM).stdout, 120)


def test_what_a_device_publishes_comes_out_of_the_api_and_no_pod_was_started_twice(installed):
    with installed.load(rate=20, devices=5) as load, installed.api(load.site) as api:
        for device in load.devices:
            path = f"/devices/{device}/latest"
            assert wait_until(lambda path=path: api.get(path).is_success and api.get(path).json()["values"], SECONDS)
        assert {pod: count for pod, count in installed.restarts().items() if count} == {}
    print(installed.verify(load))


def test_a_pod_of_each_kind_is_killed_under_load_and_nothing_is_lost(installed):
    with installed.load() as load:
        for name in (*PARTS, *SERVERS):
            before = installed.restarts()
            pod = installed.kill(name)
            assert wait_until(lambda pod=pod, before=before: installed.restarts()[pod] > before[pod], SECONDS), pod
            assert wait_until(lambda name=name: installed.all_ready(name), SECONDS), installed.state()
    print(installed.verify(load))


def test_a_third_bridge_comes_and_goes_and_nothing_is_lost(installed):
    with installed.load() as load:
        installed.helm("--set", "bridge.replicas=3")
        assert wait_until(lambda: len(installed.ready_pods("bridge")) == 3, SECONDS), installed.state()
        assert wait_until(lambda: installed.metric("iot-bridge-2", 9101, ACKNOWLEDGED) > 0, SECONDS)
        installed.helm("--set", "bridge.replicas=2")
        installed.kubectl("wait", "--for=condition=Complete", "job/iot-bridge-leave-2", f"--timeout={SECONDS}s")
        assert len(installed.ready_pods("bridge")) == 2
        assert wait_until(lambda: installed.evictable("iot-bridge") == 1, SECONDS), installed.state()
    print(installed.verify(load))


def test_every_part_is_replaced_under_load_without_a_loss_and_without_a_failed_request(installed):
    before = {name: installed.ids(name) for name in PARTS}
    with installed.load() as load, Asking(installed, load.site) as asking:
        assert wait_until(lambda: asking.answers > 10, SECONDS)
        installed.kubectl("rollout", "restart", *WORKLOADS)
        for name, pods in before.items():
            assert wait_until(lambda name=name, pods=pods: installed.replaced(name, pods), SECONDS), installed.state()
    assert asking.failures == []
    print(f"{asking.answers} requests")
    print(installed.verify(load))
