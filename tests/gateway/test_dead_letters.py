"""Dead letters, listed, shown and asked to be replayed."""

import base64

import pytest

from gateway import dead_letters
from pipeline.readings import Reason

LETTERS = """
INSERT INTO sites (name) VALUES ('seoul-1');
INSERT INTO devices (name, site_id) VALUES ('fridge-1', 1), ('fridge-2', 1);
INSERT INTO dead_letters (received_at, reason, detail, mqtt_topic, payload, payload_size, payload_sha256, device_id,
                          kafka_partition, kafka_offset, position, resolved, outcome, replay_requested_at, replayed_at)
SELECT now() - hours * INTERVAL '1 h', reason, 'x',
       CASE WHEN device = '' THEN '' ELSE 'brigade/v1/' || device || '/readings' END,
       payload, length(payload), sha256, coalesce((SELECT id FROM devices WHERE name = split_part(device, '/', 2)), 0),
       0, 1, 0, resolved, outcome, requested, replayed
FROM (VALUES
    (3, 'ts_invalid', 'seoul-1/fridge-1', '{"ts": 1}'::bytea, NULL, false, NULL, NULL, NULL),
    (2, 'malformed_json', 'seoul-1/fridge-2', '\\xff00', NULL, false, NULL, NULL, NULL),
    (1, 'oversized', 'seoul-1/fridge-1', 'cut', 'ab', false, NULL, NULL, NULL),
    (0, 'ts_invalid', 'seoul-1/fridge-1', '{}', NULL, true, 'stored', now() - INTERVAL '1 min', now()),
    (0, 'ts_invalid', 'seoul-1/fridge-1', '{}', NULL, false, NULL, now(), NULL),
    (0, 'ts_invalid', 'seoul-1/fridge-1', '{}', NULL, false, 'ts_invalid', now() - INTERVAL '1 min', now()),
    (0, 'undecodable_record', '', 'x', NULL, false, NULL, NULL, NULL),
    (0, 'malformed_json', 'paris-1/unknown-1', 'x', NULL, false, NULL, NULL, NULL)
) AS letters (hours, reason, device, payload, sha256, resolved, outcome, requested, replayed);
"""

PATH = "/api/v1/dead-letters"


@pytest.fixture
def api(scratch, scratch_api):
    scratch.execute(LETTERS)
    return scratch_api


def listed(api, **parameters):
    answer = api.get(PATH, params=parameters)
    assert answer.status_code == 200, answer.text
    return [letter.id for letter in dead_letters.Letters.model_validate_json(answer.content).dead_letters]


def test_the_reasons_are_the_pipelines():
    assert {r.value for r in dead_letters.Reason} == {r.value for r in Reason}


@pytest.mark.parametrize(
    ("parameters", "ids"),
    [
        ({}, [8, 6, 5, 4, 3, 2, 1]),  # 7 came under no topic: it is no site's
        ({"device": "fridge-1"}, [6, 5, 4, 3, 1]),
        ({"device": "unknown-1"}, [8]),
        ({"device": "nobody"}, []),
        ({"site": "paris-1"}, [8]),
        ({"reason": "malformed_json"}, [8, 2]),
        ({"resolved": "true"}, [4]),
        ({"resolved": "false", "device": "fridge-1"}, [6, 5, 3, 1]),
        ({"from": "-150m", "to": "-30m"}, [3, 2]),
        ({"from": "-150m", "reason": "oversized"}, [3]),
    ],
)
def test_the_listing_is_filtered(api, parameters, ids):
    assert listed(api, **parameters) == ids


def test_pages_are_the_whole(api):
    page = api.get(PATH, params={"limit": 3})
    ids = []
    while True:
        ids += [letter["id"] for letter in page.json()["dead_letters"]]
        if "next" not in page.links:
            break
        page = api.get(page.links["next"]["url"])
    assert ids == [8, 6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize(("number", "payload", "text"), [(1, b'{"ts": 1}', '{"ts": 1}'), (2, b"\xff\0", None)])
def test_a_letter_is_shown_with_its_bytes(api, number, payload, text):
    letter = dead_letters.Letter.model_validate_json(api.get(f"{PATH}/{number}").content)
    assert base64.b64decode(letter.payload_base64) == payload
    assert letter.payload_text == text


@pytest.mark.parametrize("number", [1, 2, 6, 8])
def test_a_replay_is_requested_once(api, scratch, number):
    answer = api.post(f"{PATH}/{number}/replay")
    assert answer.status_code == 202, answer.text
    dead_letters.Requested.model_validate_json(answer.content)
    row = scratch.execute(
        "SELECT replay_requested_at > now() - INTERVAL '1 min', replay_published_at FROM dead_letters WHERE id = %s",
        (number,),
    ).fetchone()
    assert row == (True, None)
    assert api.post(f"{PATH}/{number}/replay").status_code == 409


@pytest.mark.parametrize(("number", "why"), [(3, "beginning"), (4, "resolved"), (5, "under way")])
def test_what_cannot_be_replayed_says_why(api, number, why):
    answer = api.post(f"{PATH}/{number}/replay")
    assert answer.status_code == 409
    assert why in answer.json()["detail"]


def test_a_letter_that_is_not_there_is_not_found(api):
    for number in (99, 7):
        assert api.get(f"{PATH}/{number}").status_code == api.post(f"{PATH}/{number}/replay").status_code == 404


@pytest.mark.parametrize(
    ("parameters", "requested"),
    [
        ({"device": "fridge-1"}, {1, 6}), ({"reason": "malformed_json"}, {2, 8}), ({"site": "paris-1"}, {8}),
        ({"from": "-150m"}, {2, 6, 8}), ({"from": "1970-01-01T00:00:00Z"}, {1, 2, 6, 8}), ({"device": "nobody"}, set()),
    ],
)  # fmt: skip
def test_many_are_replayed_by_the_filter_of_the_listing(api, scratch, parameters, requested):
    before = pending(scratch)
    answer = api.post(f"{PATH}/replay", params=parameters)
    assert answer.status_code == 202, answer.text
    assert answer.json() == {"requested": len(requested), "more": False}
    assert pending(scratch) - before == requested


def pending(scratch):
    rows = scratch.execute("SELECT id FROM dead_letters WHERE replay_requested_at > coalesce(replayed_at, '-infinity')")
    return {row[0] for row in rows}


def test_replaying_everything_must_be_said(api):
    answer = api.post(f"{PATH}/replay")
    assert answer.status_code == 422
    assert "1970" in answer.json()["detail"]
