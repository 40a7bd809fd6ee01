"""The body of an answer on readings, part by part: one JSON document, or one CSV table. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from gateway.answers import csv_lines, to_json
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
        self._before: tuple[object, ...] = ()

    def head(self, about: Mapping[str, Any]) -> bytes:
        self._before = (about["device"],)
        return csv_lines([("device", "metric", "unit", *self._columns)])

    def series(self, about: Mapping[str, Any]) -> bytes:
        self._before = (self._before[0], about["metric"], about["unit"])
        return b""

    def points(self, points: Sequence[Point]) -> bytes:
        return csv_lines([*self._before, *map(_cell, map(point.get, self._columns))] for point in points)

    def tail(self) -> bytes:
        return b""


def _cell(value: object) -> object:
    match value:
        case bool():
            return "true" if value else "false"
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case _:
            return value
