"""A node that is none: pods are bound to it and told to be running, and nothing runs."""

import threading
from datetime import UTC, datetime, timedelta

NAME = "stand-in"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
SECONDS = 0.5


class StandIn:
    """Does to the API what a scheduler and a kubelet do, for every pod of the cluster, and nothing else.

    There is no container behind it. A pod becomes Running and Ready at once, as if it had been so for an hour, and one
    of a Job Succeeded; one that is deleted is gone at once. What autoscalers, Deployments, Jobs and Helm do about that
    is their own. The scheduler leaves the node alone, as it is cordoned: it would wait for volumes that nobody makes.
    """

    def __init__(self, api):
        self.api = api
        self.fault = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stand-in")

    def __enter__(self):
        size = {"cpu": "64", "memory": "256Gi", "pods": "1000"}
        conditions = [{"type": "Ready", "status": "True", "reason": "StandIn", "lastHeartbeatTime": now()}]
        self.api.make(
            "/api/v1/nodes",
            {
                "metadata": {"name": NAME, "labels": {"kubernetes.io/hostname": NAME, "kubernetes.io/os": "linux"}},
                "spec": {"unschedulable": True},
                "status": {"capacity": size, "allocatable": size, "conditions": conditions},
            },
        )
        lease = {"holderIdentity": NAME, "leaseDurationSeconds": 40, "renewTime": micro()}
        self.api.make(LEASES, {"metadata": {"name": NAME}, "spec": lease})
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(60)
        self.api.remove(f"/api/v1/nodes/{NAME}")
        self.api.remove(f"{LEASES}/{NAME}")
        if self.fault is not None:
            raise self.fault

    def _run(self):
        try:
            while not self._stop.wait(SECONDS):
                self.api.change(f"{LEASES}/{NAME}", {"spec": {"renewTime": micro()}})
                for pod in self.api.get("/api/v1/pods")["items"]:
                    self._look_after(pod)
        except Exception as error:  # noqa: BLE001  told when it is left: a thread's own would be lost
            self.fault = error

    def _look_after(self, pod):
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        path = f"/api/v1/namespaces/{namespace}/pods/{name}"
        if "deletionTimestamp" in pod["metadata"]:
            self.api.remove(path)
        elif "nodeName" not in pod["spec"]:
            target = {"metadata": {"name": name}, "target": {"kind": "Node", "name": NAME}}
            self.api.ask("POST", f"{path}/binding", target)  # one that is deleted meanwhile is refused
        elif pod["spec"]["nodeName"] == NAME and not _told(pod):
            self.api.change(f"{path}/status", {"status": _status(pod)})


def _of_a_job(pod):
    return any(owner["kind"] == "Job" for owner in pod["metadata"].get("ownerReferences", ()))


def _told(pod):
    ready = {"type": "Ready", "status": "True"}
    return pod["status"]["phase"] == "Succeeded" or any(
        ready.items() <= condition.items() for condition in pod["status"].get("conditions", ())
    )


def _status(pod):
    since = now(timedelta(hours=1))
    ended = _of_a_job(pod)
    state = (
        {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": since, "finishedAt": now()}}
        if ended
        else {"running": {"startedAt": since}}
    )
    return {
        "phase": "Succeeded" if ended else "Running",
        "startTime": since,
        "conditions": [
            {
                "type": kind,
                "status": "False" if ended and kind.endswith("Ready") else "True",
                "lastTransitionTime": since,
            }
            for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
        ],
        "containerStatuses": [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "ready": not ended,
                "started": not ended,
                "restartCount": 0,
                "state": state,
            }
            for container in pod["spec"]["containers"]
        ],
    }


def now(before=timedelta()):
    return (datetime.now(UTC) - before).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro():
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
