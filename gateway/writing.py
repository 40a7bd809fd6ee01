"""The body of an answer on readings, part by part: one JSON document, or one CSV table. Pure."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from gateway.answers import to_json
from gateway.points import Point


class Writer(Protocol):
    """Call `head`, then for each metric `series` and any number of `points`, then `tail`."""

    def head(self, about: Mapping[str, Any]) -> bytes: ...
    def series(self, about: Mapping[str, Any]) -> bytes: ...
    def points(self, points: Sequence[Point]) -> bytes: ...
    def tail(self) -> bytes: ...


class JsonWriter:
    def __init__(self) -> None:
        self._series = 0
        self._points = 0

    def head(self, about: Mapping[str, Any]) -> bytes:
        return to_json(about)[:-1] + b',"series":['

    def series(self, about: Mapping[str, Any]) -> bytes:
        end = b"]}," if self._series else b""
        self._series += 1
        self._points = 0
        return end + to_json(about)[:-1] + b',"points":['

    def points(self, points: Sequence[Point]) -> bytes:
        if not points:
            return b""
        comma = b"," if self._points else b""
        self._points += len(points)
        return comma + to_json(points)[1:-1]

    def tail(self) -> bytes:
        return (b"]}" if self._series else b"") + b"]}\n"


class CsvWriter:
    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._device = ""
        self._before = b""

    def head(self, about: Mapping[str, Any]) -> bytes:
        self._device = about["device"]
        return csv_line("device", "metric", "unit", *self._columns)

    def series(self, about: Mapping[str, Any]) -> bytes:
        self._before = csv_line(self._device, about["metric"], about["unit"]).removesuffix(b"\r\n") + b","
        return b""

    def points(self, points: Sequence[Point]) -> bytes:
        """Numbers, times, booleans and nulls need no quotes, so JSON's rows become CSV's: 15 µs a row less than csv."""
        if not points:
            return b""
        rows = to_json([[point[column] for column in self._columns] for point in points])[2:-2]
        lines = rows.replace(b'"', b"").replace(b"null", b"").replace(b"],[", b"\r\n" + self._before)
        return self._before + lines + b"\r\n"

    def tail(self) -> bytes:
        return b""


def csv_line(*cells: object) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().encode()
