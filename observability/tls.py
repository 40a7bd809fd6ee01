"""TLS towards the servers that we are clients of, by files of PEM."""

import ssl
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator


def _readable(path: str) -> str:
    try:
        if path:
            Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    return path


PemFile = Annotated[str, AfterValidator(_readable)]


def context(authority: str, certificate: str, key: str) -> ssl.SSLContext:
    """Believe the authority, or the system's where there is none; show the certificate, if there is one.

    The files are read each time, so that a certificate that was renewed counts from the next connection on.
    """
    made = ssl.create_default_context(cafile=authority or None)
    if certificate:
        made.load_cert_chain(certificate, key)
    return made


def check_switch(authority: str, certificate: str, key: str, *, on: bool, names: str) -> None:
    """As `check` where the variable `names` is true; where it is false, `ValueError` for files that nobody reads."""
    if on:
        check(authority, certificate, key, names=names)
    elif authority or certificate or key:
        raise ValueError(f"{names}_CA, _CERT and _KEY are of no use: {names} is false")


def check(authority: str, certificate: str, key: str, *, names: str) -> None:
    """`ValueError` when no connection could ever be made; `names`: the variables without CA, CERT, KEY."""
    if bool(certificate) != bool(key):
        raise ValueError(f"{names}_CERT and {names}_KEY belong together: one of them is empty")
    try:
        context(authority, certificate, key)
    except OSError as error:
        raise ValueError(f"{names}_CA, {names}_CERT and {names}_KEY cannot be used: {error}") from error
