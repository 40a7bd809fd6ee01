"""The API of a cluster, as its administrator, from any thread."""

import json
import ssl

import httpx

MERGE = {"Content-Type": "application/merge-patch+json"}


class Api:
    """One connection pool: these tests ask often, and a connection by TLS costs more than a question."""

    def __init__(self, cluster):
        trust = ssl.create_default_context(cafile=cluster.keys / "ca.crt")
        trust.load_cert_chain(cluster.keys / "admin.crt", cluster.keys / "admin.key")
        server = json.loads(cluster.kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
        self._client = httpx.Client(base_url=server, verify=trust, timeout=60, trust_env=False)

    def close(self):
        self._client.close()

    def ask(self, method, path, document=None, **headers):
        return self._client.request(method, path, json=document, headers=headers)

    def get(self, path):
        return self._taken(self.ask("GET", path)).json()

    def make(self, path, document):
        return self._taken(self.ask("POST", path, document)).json()

    def change(self, path, document):
        """Merge this into what is there; False when it is not there any more, or is another by now."""
        answer = self._client.patch(path, json=document, headers=MERGE)
        if answer.status_code in {404, 409}:
            return False
        self._taken(answer)
        return True

    def remove(self, path):
        """At once; nothing to do when it is gone."""
        answer = self.ask("DELETE", path, {"gracePeriodSeconds": 0, "propagationPolicy": "Background"})
        if answer.status_code != 404:
            self._taken(answer)

    @staticmethod
    def _taken(answer):
        assert answer.is_success, f"{answer.request.method} {answer.request.url}: {answer.text}"
        return answer
