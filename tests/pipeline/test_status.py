"""What `brigade status` makes of what it saw; what it sees on a whole stack is in tests/end_to_end/test_status.py."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from pipeline.status import judgement, looks, screen
from pipeline.status.seen import Alert, Disk, Event, Lag, Part, Rates, Seen, State, Tables

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def part(name="worker-1", **more):
    return Part(**{"name": name, "state": State.WELL, "address": "http://here", "up": True, "version": "1"} | more)


def event(**more):
    return Event(**{"at": NOW - timedelta(minutes=5), "level": "error", "event": "records_gone"} | more)


def tables(**more):
    return Tables(**{"migration": "0001_readings", "readings_last_hour": 1000} | more)


def judged(**seen):
    return judgement.findings(Seen(**{"at": NOW, "parts": [part()], "tables": tables()} | seen), logs="/logs")


def test_when_all_is_well_nothing_is_found():
    assert judged(lag=Lag(records=3, messages=60, seconds=0.4), rates=Rates(over_seconds=300)) == []
    assert judgement.state([]) is State.WELL


WRONG = [
    ({"parts": [part(state=State.WRONG, up=False, detail="refused")]}, "worker-1 is down: refused", "/logs/worker-1"),
    ({"parts": [part(state=State.WRONG, detail="MQTT: gone")]}, "worker-1 is up, but not ready: MQTT: gone", "/readyz"),
    ({"parts": [part("kafka", state=State.WRONG, up=False)]}, "kafka is down", "topics check"),
    ({"parts": [part("database", state=State.WRONG, up=False)]}, "database is down", "SELECT 1"),
    ({"parts": [part(), part("lag", version="2")]}, "parts of several versions: 1: worker-1; 2: lag", "roll out"),
    ({"parts": [part(events=[event(reason="retention")])]}, "records_gone: retention", "tail -n 20"),
    ({"lag": Lag(records=9, messages=70_000, seconds=61)}, "61 s behind, about 70,000 messages", "worker"),
    ({"topics_wrong": "topic x does not exist"}, "topic x does not exist", "topics create"),
    ({"tables": tables(missing_migrations=2)}, "lacks 2 migration(s)", "`brigade migrate`"),
    ({"tables": tables(missing_migrations=-1)}, "a newer version", "newer"),
    ({"tables": tables(refused_last_hour=51, reasons_last_hour=[("no_json", 51)])}, "no_json 51", "dead-letters list"),
    ({"disks": [Disk(name="/data", free_bytes=9, size_bytes=100)]}, "disk of /data is 91 % full", "RETENTION"),
    (
        {"alerts": [Alert(name="WorkerDown", severity="critical", since=NOW, summary="gone", runbook="worker.md")]},
        "alert WorkerDown fires since 12:00: gone",
        "worker.md",
    ),
]


@pytest.mark.parametrize(("seen", "what", "advice"), WRONG, ids=[what for _, what, _ in WRONG])
def test_each_thing_that_is_wrong_is_said_with_what_to_do(seen, what, advice):
    (found,) = judged(**seen)
    assert found.state is State.WRONG
    assert what in found.what
    assert any(advice in line for line in found.advice)
    assert judgement.state([found]) is State.WRONG


@pytest.mark.parametrize(
    "seen",
    [
        {"lag": Lag(records=9, messages=70_000, seconds=60)},
        {"parts": [part(events=[event(at=NOW - timedelta(hours=2))])]},
        {"parts": [part(events=[event(level="warning")])]},
        {"parts": [part(events=[event(ours=False)])]},
        {"parts": [part(), part("kafka", version="4.3")]},
        {"tables": tables(refused_last_hour=50)},
        {"disks": [Disk(name="/data", free_bytes=10, size_bytes=100)]},
        {"alerts": [Alert(name="Watchdog", severity="critical", since=None, summary="", runbook="")]},
        {"alerts": [Alert(name="HpaAtMaximum", severity="info", since=None, summary="", runbook="")]},
    ],
)
def test_what_is_no_fault_is_none(seen):
    assert judged(**seen) == []


def test_what_cannot_be_told_is_neither_well_nor_wrong():
    unknown = part(state=State.UNKNOWN, up=False, detail="Name or service not known")
    found = judged(parts=[unknown])
    assert "cannot tell" in found[0].what
    assert judgement.state(found) is State.UNKNOWN
    found = judged(parts=[unknown, part("lag", state=State.WRONG, up=False)])
    assert [finding.state for finding in found] == [State.WRONG, State.UNKNOWN]
    assert judgement.state(found) is State.WRONG


def test_last_words_are_read_from_the_log_of_a_process_that_is_gone(tmp_path):
    lines = [
        {"timestamp": "2026-11-25T11:00:00Z", "level": "info", "event": "started"},
        {"timestamp": "2026-11-25T11:01:00Z", "level": "warning", "event": "kafka_away", "why": "refused"},
        {"timestamp": "2026-11-25T11:02:00Z", "level": "error", "event": "Crashed", "logger": "mode"},
    ]
    (tmp_path / "lag.log").write_text("Traceback\n" + "\n".join(map(json.dumps, lines)) + "\n{half")
    away, crashed = looks.last_words(str(tmp_path), "lag")
    assert (away.event, away.reason, away.ours, away.at.minute) == ("kafka_away", "refused", True, 1)
    assert not crashed.ours
    assert looks.last_words(str(tmp_path), "nobody") == looks.last_words("", "lag") == ()


def test_metrics_are_summed_over_their_labels_and_told_by_outcome():
    numbers, version = looks.read_metrics(
        'pipeline_sink_readings_total{outcome="stored"} 7\npipeline_sink_readings_total{outcome="refused"} 2\n'
        'brigade_build_info{version="0.1.0"} 1\n'
    )
    assert numbers["pipeline_sink_readings_total"] == 9
    assert numbers["pipeline_sink_readings_total:stored"] == 7
    assert version == "0.1.0"


def test_the_screen_says_what_to_do_only_where_it_is_asked():
    seen = Seen(at=NOW, parts=[part(state=State.WRONG, up=False, events=[event(reason="[bold]no markup[/bold]")])])
    found = judgement.findings(seen, logs="/logs")

    def shown(*, explain):
        console = Console(width=120, color_system=None)
        with console.capture() as captured:
            screen.show(console, seen, found, explain=explain)
        return captured.get()

    assert "/logs/worker-1.log" not in shown(explain=False)
    assert "/logs/worker-1.log" in shown(explain=True)
    assert "error records_gone: [bold]no markup[/bold]" in shown(explain=True)
    assert shown(explain=True).strip().endswith("something is wrong")
