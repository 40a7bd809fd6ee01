"""The cluster's own authority, what it signs, and the kubeconfigs made of that; for as long as the cluster lives."""

import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID = timedelta(days=30)
USAGES = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


class Authority:
    """Writes into one folder: `ca.crt`, then `NAME.crt` and `NAME.key` for each it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _subject("kubernetes", None)
        signed = _certificate(self._name, self._name, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        folder.mkdir(mode=0o700, parents=True)
        self._write("ca", self._key, signed.sign(self._key, hashes.SHA256()))

    def sign(self, name: str, *, who: str, group: str | None = None, at: tuple[str, ...] = ()) -> None:
        """For a server at these addresses, or for a client that is `who` in `group`."""
        key = ec.generate_private_key(ec.SECP256R1())
        signed = _certificate(self._name, _subject(who, group), key.public_key()).add_extension(
            x509.ExtendedKeyUsage(USAGES), critical=False
        )
        if at:
            signed = signed.add_extension(x509.SubjectAlternativeName([_address(one) for one in at]), critical=False)
        self._write(name, key, signed.sign(self._key, hashes.SHA256()))

    def key_pair(self, name: str) -> None:
        """`NAME.key` and its public half `NAME.pub`, for what the API server signs itself."""
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (self.folder / f"{name}.key").write_bytes(_private(key))
        (self.folder / f"{name}.pub").write_bytes(public)

    def kubeconfig(self, name: str, server: str) -> Path:
        """For the client that `NAME.crt` is of."""

        def data(file: str) -> str:
            return b64encode((self.folder / file).read_bytes()).decode()

        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "brigade",
            "clusters": [
                {"name": "brigade", "cluster": {"server": server, "certificate-authority-data": data("ca.crt")}}
            ],
            "users": [
                {
                    "name": name,
                    "user": {
                        "client-certificate-data": data(f"{name}.crt"),
                        "client-key-data": data(f"{name}.key"),
                    },
                }
            ],
            "contexts": [{"name": "brigade", "context": {"cluster": "brigade", "user": name}}],
        }
        file = self.folder / f"{name}.kubeconfig"
        file.touch(mode=0o600)
        file.write_text(json.dumps(document, indent=2))  # JSON is YAML, too
        return file

    def _write(self, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        (self.folder / f"{name}.key").write_bytes(_private(key))
        (self.folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _certificate(issuer: x509.Name, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + VALID)
    )


def _subject(who: str, group: str | None) -> x509.Name:
    groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group)] if group else []
    return x509.Name([*groups, x509.NameAttribute(NameOID.COMMON_NAME, who)])


def _address(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
