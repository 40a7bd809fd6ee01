"""Names of devices into numbers, remembered for some seconds: a chart asks for the same few again and again."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.database import Database
from gateway.devices import DEVICE, Device, Metric, device_asked, found_device

KEPT_SECONDS: Final = 5
"""A device that moves to another site is found there, and not here, so much later at the most; tokens take minutes."""
MOST: Final = 10_000


@dataclass(frozen=True, slots=True)
class Entry:
    device: Device
    metrics: Sequence[Metric]
    until: float


class Directory:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._entries: dict[str, Entry] = {}

    async def find(
        self, name: str, sites: Sequence[str], metrics: Sequence[str] = ()
    ) -> tuple[Device, Sequence[Metric]]:
        """The device and its metrics; `UnknownError` unless it is in one of the sites. What is missing is looked up."""
        entry = self._entries.get(name)
        if entry and time.monotonic() < entry.until and entry.device.site in sites:
            known = {metric.name for metric in entry.metrics}
            if known.issuperset(metrics):
                return entry.device, entry.metrics
        found = found_device(name, await self._database.ask(DEVICE, device_asked(name, sites)))
        if len(self._entries) >= MOST:
            self._entries.clear()
        self._entries[name] = Entry(*found, time.monotonic() + KEPT_SECONDS)
        return found

    def forget(self) -> None:
        self._entries.clear()
