"""The rival: Telegraf, MQTT straight into the same PostgreSQL, no Kafka between.

`wide` is Telegraf as it comes: a row a message, no key, so a message that comes twice is stored twice.
`narrow` is what ours stores: a row a value, under a key that keeps what comes twice out.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psycopg
from psycopg import sql

from deploy.bench.chain import DRAIN_SECONDS, LATE_SECONDS, POINTS, STORED_SECONDS, Shape, publisher
from deploy.bench.cpu import Account
from deploy.bench.instance import Bench
from deploy.local.layout import Broker
from deploy.local.ready import wait_until
from deploy.local.say import say

VERSION = "v1.37.2"
MODULE = f"github.com/influxdata/telegraf@{VERSION}"
TAGS = "custom,inputs.mqtt_consumer,outputs.postgresql,parsers.json_v2,processors.converter,processors.unpivot"
HERE = Path(__file__).parent
DATABASE = "telegraf"
GROUPS = ("mosquitto",)
READY_SECONDS = 20.0


class Layout(StrEnum):
    WIDE = "wide"
    NARROW = "narrow"


KEYED = """
CREATE TABLE points (time timestamptz NOT NULL, tag_id bigint NOT NULL, value double precision NOT NULL,
                     PRIMARY KEY (tag_id, time));
SELECT create_hypertable('points', by_range('time', INTERVAL '1 day'), create_default_indexes => false);
CREATE VIEW readings AS SELECT time, tag_id, value FROM points;
CREATE FUNCTION keep_once() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO points (time, tag_id, value) VALUES (NEW.time, NEW.tag_id, NEW.value) ON CONFLICT DO NOTHING;
    RETURN NEW;
END $$;
CREATE TRIGGER keep_once INSTEAD OF INSERT ON readings FOR EACH ROW EXECUTE FUNCTION keep_once();
"""
# Telegraf writes by COPY, which knows no ON CONFLICT; a view with such a trigger takes it.


@dataclass(frozen=True, slots=True, kw_only=True)
class RivalRun:
    layout: Layout
    rate: int
    seconds: float
    sent: int
    stored: int  # messages whose rows are there
    late_seconds: float
    drain_seconds: float
    cpu: dict[str, float]  # µs a message

    @property
    def sustained(self) -> bool:
        return self.sent == self.stored and self.late_seconds < LATE_SECONDS and self.drain_seconds < DRAIN_SECONDS


def build(cache: Path) -> Path | None:
    """Telegraf with the few plugins that are needed, built once; None without Go."""
    binary = cache / f"telegraf-{VERSION}"
    if binary.exists():
        return binary
    if not shutil.which("go"):
        say("the rival is skipped: Telegraf is built from source and there is no Go here (the command `go`)")
        return None
    say(f"building Telegraf {VERSION} (once)")
    scratch = cache / "go"
    scratch.mkdir(parents=True, exist_ok=True)
    told = _go("mod", "download", "-json", MODULE, folder=scratch)
    unfinished = binary.with_suffix(".unfinished")
    _go("build", "-trimpath", "-tags", TAGS, "-o", str(unfinished), "./cmd/telegraf", folder=json.loads(told)["Dir"])
    unfinished.rename(binary)
    return binary


def _go(*words: str, folder: Path | str) -> str:
    done = subprocess.run(["go", *words], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"go {' '.join(words)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def begin(bench: Bench, layout: Layout) -> None:
    """Nothing of ours takes part, nothing is left of the run before."""
    bench.end_chain()
    bench.restart_broker(Broker.MEMORY)
    bench.drop(DATABASE)
    with bench.connect("postgres") as connection:
        connection.execute(f"CREATE DATABASE {DATABASE}")
    with bench.connect(DATABASE) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
        if layout is Layout.NARROW:
            connection.execute(KEYED)


@contextmanager
def telegraf(bench: Bench, binary: Path, layout: Layout) -> Iterator[int]:
    """Its process id, once it is subscribed."""
    configuration = [HERE / "telegraf.toml", *([HERE / "telegraf_narrow.toml"] if layout is Layout.NARROW else [])]
    words = [word for file in configuration for word in ("--config", str(file))]
    environment = os.environ | {
        "BENCH_MQTT_PORT": str(bench.mqtt_port),
        "BENCH_MQTT_USER": bench.stack.mqtt_login["username"],
        "BENCH_MQTT_PASSWORD": bench.stack.mqtt_login["password"],
        "BENCH_DATABASE_URL": bench.stack.superuser_url(DATABASE) + "?application_name=telegraf",
        "BENCH_EXCLUDED": '"seq"' if layout is Layout.NARROW else "",
    }
    log = bench.stack.instance.logs / "telegraf.log"
    command = ["setpriv", "--pdeathsig", "KILL", str(binary), *words]
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output, env=environment) as process:
        try:
            if not wait_until(
                lambda: "Connected [" in log.read_text(), READY_SECONDS, while_true=lambda: process.poll() is None
            ):
                raise RuntimeError(f"Telegraf does not get ready: {log}")
            yield process.pid
        finally:
            process.terminate()


def run(bench: Bench, binary: Path, layout: Layout, *, rate: int, seconds: float, shape: Shape) -> RivalRun:
    begin(bench, layout)
    site = f"rival-{rate}"
    with (
        bench.connect(DATABASE) as database,
        telegraf(bench, binary, layout) as pid,
        publisher(bench, site, rate, seconds, shape) as load,
    ):
        if _wait_stored(database, layout, shape.devices, READY_SECONDS) < shape.devices:
            raise RuntimeError(f"Telegraf stores nothing: {bench.stack.instance.logs / 'telegraf.log'}")
        account = Account(bench, database, GROUPS, telegraf=pid, publisher=load.pid)
        sent = load.go()
        acknowledged = time.monotonic()
        stored = _wait_stored(database, layout, shape.devices + sent.sent, STORED_SECONDS)
        drain = time.monotonic() - acknowledged
        cpu = account.per_message(sent.sent)
    done = RivalRun(
        layout=layout,
        rate=rate,
        seconds=seconds,
        sent=shape.devices + sent.sent,
        stored=stored,
        late_seconds=sent.late_seconds,
        drain_seconds=drain,
        cpu=cpu,
    )
    say(line(done))
    return done


def _wait_stored(database: psycopg.Connection, layout: Layout, messages: int, seconds: float) -> int:
    """Return when so many messages' rows are there, or how many are by then."""
    end = time.monotonic() + seconds
    while (found := _stored(database, layout)) < messages and time.monotonic() < end:
        time.sleep(0.2)
    return found


def _stored(database: psycopg.Connection, layout: Layout) -> int:
    """Statistics of inserted rows would be cheaper, and late."""
    table, rows = ("points", POINTS) if layout is Layout.NARROW else ("readings", 1)
    if database.execute("SELECT to_regclass(%s)", (table,)).fetchone() == (None,):
        return 0
    row = database.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))).fetchone()
    return row[0] // rows if row else 0


def line(one: RivalRun) -> str:
    parts = ", ".join(f"{name} {used:.1f}" for name, used in one.cpu.items())
    return (
        f"Telegraf, {one.layout}, {one.rate}/s {one.seconds:g} s: "
        f"{'sustained' if one.sustained else 'NOT sustained'}, sent {one.sent}, stored {one.stored}; "
        f"µs a message: {sum(one.cpu.values()):.1f} ({parts})"
    )
