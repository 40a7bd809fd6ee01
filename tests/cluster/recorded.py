"""What Prometheus scrapes and what autoscalers ask in these tests: numbers that a test sets, served by HTTP."""

import json
import math
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, urlsplit

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily

from pipeline.lag import Lag, PartitionLag
from tests.certificates import Authority
from tests.cluster.stand_in import now

GROUP = "brigade-worker"
PARTITIONS = 12
RESOURCE_METRICS = "metrics.k8s.io"


def spread(messages):
    """So many messages behind, unevenly in all partitions."""
    shares = [messages * 2 * number // (PARTITIONS * (PARTITIONS - 1)) for number in range(PARTITIONS)]
    return [messages - sum(shares[1:]), *shares[1:]]


class Recorded:
    """The lag exporters and the bridge of one namespace: series as those programs export them, to be set at will."""

    def __init__(self):
        self.exporter_answers = True
        self._lag = Lag(group=GROUP, topic="readings.raw", recent_seconds=math.inf)
        self._appended, self._rate, self._since = 0.0, 0.0, time.monotonic()
        self.behind(spread(0))

    def behind(self, messages):
        """In each partition; -1 where nobody has committed yet, as some exporters tell it."""
        self._lag.tell(
            [
                PartitionLag(partition=number, committed=0, end=1, records=min(1, each), messages=each, seconds=0)
                for number, each in enumerate(messages)
            ]
        )

    def appends(self, messages_a_second):
        self._appended = self._count()
        self._rate, self._since = messages_a_second, time.monotonic()

    def lag(self):
        registry = CollectorRegistry()
        registry.register(self._lag)
        return generate_latest(registry) if self.exporter_answers else None

    def bridge(self):
        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)

    def collect(self):
        yield CounterMetricFamily("pipeline_bridge_messages_acknowledged", "To Kafka.", value=self._count())

    def _count(self):
        return self._appended + self._rate * (time.monotonic() - self._since)


class Served:
    """An HTTP server on a free port, for as long as the block takes."""

    def __init__(self, handler, trust=None):
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        if trust is not None:
            self._server.socket = trust.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name=f"serves {self.port}")

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Quiet(BaseHTTPRequestHandler):
    def log_message(self, *_):
        """Not a word: one line a second for each series would hide what fails."""

    def answer(self, status, content_type, body):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def exporters(recorded):
    """`/NAMESPACE/lag` and `/NAMESPACE/bridge` of each namespace's records."""

    class Handler(_Quiet):
        def do_GET(self):
            namespace, part = self.path.strip("/").split("/")
            text = getattr(recorded[namespace], part)()
            self.answer(200 if text is not None else 503, "text/plain; version=0.0.4", text or b"")

    return Served(Handler)


def resource_metrics(api, used, folder):
    """The resource metrics API, where metrics-server would answer: `used` has millicores by namespace.

    They are shared by the namespace's pods, as a Service shares requests, up to the limit of each. Memory is half of
    what a pod asked for.
    """
    certificate = Authority().signs("localhost", "localhost")
    (folder / "metrics.pem").write_text(certificate.certificate + certificate.key)
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trust.load_cert_chain(folder / "metrics.pem")

    class Handler(_Quiet):
        def do_GET(self):
            address = urlsplit(self.path)
            match address.path.strip("/").split("/"):
                case ["apis", _, "v1beta1"]:
                    pods = {"name": "pods", "namespaced": True, "kind": "PodMetrics", "verbs": ["get", "list"]}
                    self._json({"kind": "APIResourceList", "groupVersion": GROUP_VERSION, "resources": [pods]})
                case ["apis", _, "v1beta1", "namespaces", namespace, "pods"]:
                    selector = parse_qs(address.query).get("labelSelector", [""])[0]
                    self._json({"kind": "PodMetricsList", "metadata": {}, "items": self._pods(namespace, selector)})
                case _:
                    self.answer(404, "text/plain", b"no such thing\n")

        def _pods(self, namespace, selector):
            pods = api.get(f"/api/v1/namespaces/{namespace}/pods?labelSelector={quote(selector)}")["items"]
            running = [pod for pod in pods if pod["status"]["phase"] == "Running"]
            return [_usage(pod, used[namespace] / len(running)) for pod in running]

        def _json(self, document):
            body = json.dumps({"apiVersion": GROUP_VERSION} | document).encode()
            self.answer(200, "application/json", body)

    return Served(Handler, trust)


GROUP_VERSION = f"{RESOURCE_METRICS}/v1beta1"


def _usage(pod, millicores):
    (container,) = pod["spec"]["containers"]
    resources = container["resources"]
    most = int(resources["limits"]["cpu"].removesuffix("m"))
    memory = int(resources["requests"]["memory"].removesuffix("Mi")) // 2
    usage = {"cpu": f"{int(min(most, millicores) * 1_000_000)}n", "memory": f"{memory}Mi"}
    names = {name: pod["metadata"][name] for name in ("name", "namespace", "labels")}
    return {
        "metadata": names,
        "timestamp": now(),
        "window": "15s",
        "containers": [{"name": container["name"], "usage": usage}],
    }
