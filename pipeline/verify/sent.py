"""A simulator's ledger file, line by line, into temporary tables beside the real ones."""

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import psycopg

TABLES: Final = """
CREATE TEMP TABLE sent_device (number int PRIMARY KEY, name text NOT NULL, site text NOT NULL, id int);
CREATE TEMP TABLE sent_metric (number int PRIMARY KEY, name text NOT NULL, id smallint);
CREATE TEMP TABLE sent_point (
    device int NOT NULL, metric int NOT NULL, ts timestamptz NOT NULL, value float8 NOT NULL, acknowledged bool NOT NULL
);
CREATE TEMP TABLE sent_bad (topic text NOT NULL, sha256 text NOT NULL, acknowledged bool NOT NULL);
CREATE TEMP TABLE sent_count (device int PRIMARY KEY, acknowledged bigint NOT NULL)
"""
INDEX: Final = "CREATE INDEX ON sent_point (device, metric, ts)"
"""Without it a minute's question can take minutes: what has just come is not in the statistics of `readings` yet."""
COPY: Final = "COPY sent_point FROM STDIN (FORMAT binary)"
COPY_HEAD: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_END: Final = b"\xff\xff"
POINT: Final = struct.Struct(">hiiiiiqidi?").pack
EPOCH_US: Final = 946_684_800_000_000
"""PostgreSQL counts microseconds from 2000."""


class NotALedgerError(ValueError):
    """The file is not what `brigade simulate --ledger` writes."""


class Reading(msgspec.Struct, gc=False):
    ts_us: int
    values: dict[str, bool | float]


class Refused(msgspec.Struct, gc=False):
    sha256: str


class Line(msgspec.Struct, gc=False):
    """One publish. The simulator writes more, for people."""

    device: str
    site: str
    outcome: str
    sent_us: int | None
    acked_us: int | None
    readings: list[Reading]
    topic: str = ""
    refused: list[Refused] = []


@dataclass(slots=True)
class Sent:
    """What the file holds, in numbers."""

    outcomes: Counter[str] = field(default_factory=Counter)
    points: int = 0
    first_us: int | None = None
    last_us: int = 0
    cut: bool = False


def load(connection: psycopg.Connection[Any], path: Path) -> Sent:
    """Fill the temporary tables with the file; `NotALedgerError` says what is wrong with it."""
    connection.execute(TABLES)
    loading = _Loading()
    with connection.cursor() as cursor, cursor.copy(COPY) as copy:
        block = [COPY_HEAD]
        for line in _lines(path, loading.sent):
            block += loading.points_of(line)
            if len(block) > 4_000:
                copy.write(b"".join(block))
                block = []
        copy.write(b"".join([*block, COPY_END]))
    loading.finish(connection)
    return loading.sent


def _lines(path: Path, sent: Sent) -> Iterator[Line]:
    decode = msgspec.json.Decoder(Line).decode
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            try:
                yield decode(text)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                if not text.endswith(b"\n") and number > 1:
                    sent.cut = True  # the simulator was killed while it wrote
                    return
                raise NotALedgerError(f"line {number} of {path} is not of a ledger: {error}") from error


class _Loading:
    def __init__(self) -> None:
        self.sent = Sent()
        self._devices: dict[str, tuple[int, str]] = {}
        self._metrics: dict[str, int] = {}
        self._bad: list[tuple[str, str, bool]] = []
        self._acknowledged: Counter[int] = Counter()

    def points_of(self, line: Line) -> list[bytes]:
        sent = self.sent
        if line.sent_us is None:
            sent.outcomes["never sent"] += 1
            return []
        sent.outcomes[line.outcome] += 1
        acknowledged = line.outcome == "acknowledged"
        sent.first_us = line.sent_us if sent.first_us is None else min(sent.first_us, line.sent_us)
        sent.last_us = max(sent.last_us, line.acked_us or line.sent_us)
        self._bad += [(line.topic, refused.sha256, acknowledged) for refused in line.refused]
        device, _ = self._devices.setdefault(line.device, (len(self._devices), line.site))
        if acknowledged:
            self._acknowledged[device] += len(line.readings)
        metrics = self._metrics
        points = []
        for reading in line.readings:
            ts = reading.ts_us - EPOCH_US
            for name, value in reading.values.items():
                metric = metrics.get(name)
                if metric is None:
                    metric = metrics[name] = len(metrics)
                points.append(POINT(5, 4, device, 4, metric, 8, ts, 8, value, 1, acknowledged))
        sent.points += len(points)
        return points

    def finish(self, connection: psycopg.Connection[Any]) -> None:
        with connection.cursor() as cursor:
            with cursor.copy("COPY sent_device (number, name, site) FROM STDIN") as copy:
                for name, (number, site) in self._devices.items():
                    copy.write_row((number, name, site))
            with cursor.copy("COPY sent_metric (number, name) FROM STDIN") as copy:
                for name, number in self._metrics.items():
                    copy.write_row((number, name))
            with cursor.copy("COPY sent_bad FROM STDIN") as copy:
                for row in self._bad:
                    copy.write_row(row)
            with cursor.copy("COPY sent_count FROM STDIN") as copy:
                for item in self._acknowledged.items():
                    copy.write_row(item)
        connection.execute(INDEX)
        connection.execute("ANALYZE sent_device, sent_metric, sent_point, sent_bad, sent_count")
