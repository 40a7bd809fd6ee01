"""What became of a device's readings."""

from datetime import timedelta

import psycopg

from gateway.ledger import Ledger
from tests.gateway.conftest import HOUR

BEFORE = HOUR - timedelta(hours=1)


SENT = """
INSERT INTO sites (name) VALUES ('seoul-1');
INSERT INTO devices (name, site_id) VALUES ('fridge-1', 1), ('fridge-2', 1);
INSERT INTO ledger VALUES
    (%(before)s, 1, 10, 7, 1, 2, 3, 21), (%(before)s, 2, 9, 9, 0, 0, 0, 9), (%(old)s, 1, 1, 1, 0, 0, 0, 1);
INSERT INTO ledger_pending (hour, device_ids, received, stored, duplicate, refused, late, points) VALUES
    (%(before)s, '{1}', '{5}', '{4}', '{}', '{1}', '{}', '{8}'),
    (%(hour)s, '{1,2}', '{3,1}', '{3,1}', '{}', '{}', '{}', '{3,1}');
INSERT INTO ledger_refusals VALUES
    (%(before)s, 1, 'ts_invalid', 2), (%(before)s, 1, 'no_metrics', 1), (%(before)s, 1, 'oversized', 0);
"""


def test_the_ledger_counts_what_is_folded_and_what_is_not_yet(scratch, scratch_api):
    moments = {"before": BEFORE, "hour": HOUR, "old": HOUR - timedelta(days=9)}
    psycopg.ClientCursor(scratch).execute(SENT, moments)
    ledger = Ledger.model_validate_json(scratch_api.get("/api/v1/devices/fridge-1/ledger").content)
    assert [(h.hour, h.received, h.stored, h.duplicate, h.refused, h.late, h.points) for h in ledger.hours] == [
        (BEFORE, 15, 11, 1, 3, 3, 29),
        (HOUR, 3, 3, 0, 0, 0, 3),
    ]
    assert ledger.hours[0].refused_by_reason == ledger.totals.refused_by_reason == {"ts_invalid": 2, "no_metrics": 1}
    assert ledger.totals.received == ledger.totals.stored + ledger.totals.duplicate + ledger.totals.refused == 18


def test_more_than_a_year_is_refused(api):
    answer = api.get("/api/v1/devices/fridge-1/ledger?from=-400d")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "from"
