"""Servers may start at the same time as what needs them: wait for them, but not for ever."""

import time
from collections.abc import Callable
from typing import Final, TypeVar

EVERY_SECONDS: Final = 0.5

T = TypeVar("T")


class InstallError(Exception):
    """It cannot be done; the text names what to change."""


class NotYetError(Exception):
    """Worth another try; the text says what does not answer."""


def patiently(attempt: Callable[[], T], seconds: float) -> T:
    """What the attempt returns in the end; `InstallError` when it still raises `NotYetError` after so long."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return attempt()
        except NotYetError as error:
            if time.monotonic() > deadline:
                raise InstallError(f"{error} (for {seconds:g} s: BRIGADE_INSTALL_WAIT_SECONDS)") from error
        time.sleep(EVERY_SECONDS)
