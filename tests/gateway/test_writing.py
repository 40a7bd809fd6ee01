"""The body of an answer, written in parts."""

import csv
import io
from datetime import UTC, datetime

import orjson
import pytest

from gateway.writing import CsvWriter, JsonWriter

TS = datetime(2026, 11, 23, 3, 40, tzinfo=UTC)
POINT = {"ts": TS, "value": 3.5, "seq": None, "out_of_bounds": True}


@pytest.mark.parametrize("parts", [[], [[]], [[], []], [[[]], [[POINT], [], [POINT, POINT]]]])
def test_parts_make_one_document(parts):
    writer = JsonWriter()
    body = writer.head({"device": "fridge-1"})
    for series in parts:
        body += writer.series({"metric": "temperature_c"})
        for points in series:
            body += writer.points(points)
    document = orjson.loads(body + writer.tail())
    assert [len(s["points"]) for s in document["series"]] == [sum(map(len, series)) for series in parts]


def test_a_table_is_what_csv_readers_read():
    writer = CsvWriter(["ts", "value", "seq", "out_of_bounds"])
    body = writer.head({"device": "fridge-1"}) + writer.series({"metric": "flow", "unit": 'l,"min"'})
    body += writer.points([POINT, POINT]) + writer.points([]) + writer.points([POINT]) + writer.tail()
    rows = list(csv.reader(io.StringIO(body.decode(), newline=""), strict=True))
    assert rows[0] == ["device", "metric", "unit", "ts", "value", "seq", "out_of_bounds"]
    assert rows[1:] == [["fridge-1", "flow", 'l,"min"', "2026-11-23T03:40:00Z", "3.5", "", "true"]] * 3
