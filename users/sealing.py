"""What must not be readable in a copy of the database: sealed with the secret of the installation. Pure."""

import hashlib
import hmac
import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES: Final = 12


class SealError(Exception):
    """It was sealed with another secret, or for another thing, or has been changed."""


class Sealer:
    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._cipher = AESGCM(self._key("seal"))

    def seal(self, plain: bytes, about: str) -> bytes:
        """Only `open` with the same `about` reads it: a row's seal is worth nothing in another row."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, about.encode())

    def open(self, sealed: bytes, about: str) -> bytes:
        try:
            return self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], about.encode())
        except InvalidTag:
            raise SealError(f"BRIGADE_USERS_SECRET does not open the sealed {about.partition(' ')[0]}") from None

    def mac(self, purpose: str, *parts: bytes) -> bytes:
        """32 bytes that only the holder of the secret can compute."""
        return hmac.digest(self._key(purpose), b"".join(len(part).to_bytes(4) + part for part in parts), "sha256")

    def _key(self, purpose: str) -> bytes:
        return hmac.digest(self._secret, f"brigade users {purpose}".encode(), "sha256")


def sha256(token: str) -> bytes:
    """How a random token is kept: it has 256 bits, so no salt and no slow hash would add anything."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()
