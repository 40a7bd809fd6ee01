import json
import os
import ssl
import sys
from http.client import HTTPSConnection
from pathlib import Path

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PATH = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io"

connection = HTTPSConnection(
    os.environ["KUBERNETES_SERVICE_HOST"],
    int(os.environ["KUBERNETES_SERVICE_PORT"]),
    timeout=10,
    context=ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt")),
)
connection.request("GET", PATH, headers={"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}"})
answer = connection.getresponse()
if answer.status != 200:
    sys.exit(
        f"there is no metrics-server ({answer.status}): the autoscalers of gateway and users cannot work; install it"
    )
conditions = {one["type"]: one for one in json.load(answer)["status"].get("conditions", [])}
available = conditions.get("Available", {})
if available.get("status") != "True":
    sys.exit(f"metrics-server does not work: {available.get('message')}")
print("metrics-server is there")
