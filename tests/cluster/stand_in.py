"""A node that is none: pods are bound to it and told to be running, and nothing runs."""

import threading
from datetime import UTC, datetime, timedelta

NAME = "stand-in"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
SECONDS = 0.5
AGE = timedelta(hours=1)
"""Of every pod, by what it says."""


class StandIn:
    """Does to the API what a scheduler and a kubelet do, for every pod of the cluster, and nothing else.

    There is no container behind it. A pod becomes Running and Ready at once, as if it had been so for an hour, and one
    of a Job Succeeded, or Failed when `failing` names the Job; one that is deleted is gone at once. What autoscalers,
    Deployments, Jobs and Helm do about that is their own. The scheduler leaves the node alone, as it is cordoned: it
    would wait for volumes that nobody makes.
    """

    def __init__(self, api):
        self.api = api
        self.failing = set()
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
            self.api.change(f"{path}/status", {"status": self._status(pod)})

    def _status(self, pod):
        (job,) = [one["name"] for one in pod["metadata"].get("ownerReferences", ()) if one["kind"] == "Job"] or [None]
        return _running(pod) if job is None else _ended(pod, 1 if job in self.failing else 0)


def _told(pod):
    ready = {"type": "Ready", "status": "True"}
    return pod["status"]["phase"] in {"Succeeded", "Failed"} or any(
        ready.items() <= condition.items() for condition in pod["status"].get("conditions", ())
    )


def _running(pod):
    return _status(pod, "Running", {"running": {"startedAt": now(AGE)}}, ready=True)


def _ended(pod, code):
    terminated = {
        "exitCode": code,
        "reason": "Error" if code else "Completed",
        "startedAt": now(AGE),
        "finishedAt": now(),
    }
    return _status(pod, "Failed" if code else "Succeeded", {"terminated": terminated}, ready=False)


def _status(pod, phase, state, *, ready):
    def condition(kind):
        true = ready or not kind.endswith("Ready")
        return {"type": kind, "status": str(true), "lastTransitionTime": now(AGE)}

    return {
        "phase": phase,
        "startTime": now(AGE),
        "conditions": [condition(kind) for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")],
        "containerStatuses": [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "ready": ready,
                "started": ready,
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
