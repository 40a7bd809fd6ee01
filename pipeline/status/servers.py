"""Looks at the servers: Kafka, the database, the MQTT broker, Prometheus."""

import asyncio
import math
import secrets
import shutil
import time
from datetime import datetime
from typing import Any, Final

import httpx
import psycopg
from aiokafka.errors import KafkaError
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict

from pipeline import lag, topics
from pipeline.kafka import for_aiokafka
from pipeline.migrate import MIGRATIONS, migrations
from pipeline.mqtt import Client, OutageError, RefusedError
from pipeline.settings import StatusSettings
from pipeline.status.seen import BROKER, DATABASE, KAFKA, PROMETHEUS, Alert, Disk, Lag, Part, Rates, State, Tables

SECONDS: Final = 5.0
RATE_SECONDS: Final = 300.0

VERSIONS: Final = """
SELECT current_setting('server_version'), (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'),
       pg_database_size(current_database()), pg_postmaster_start_time()
"""
APPLIED: Final = "SELECT name FROM schema_migrations ORDER BY number"
OPEN_LETTERS: Final = "SELECT count(*) FROM (SELECT FROM dead_letters WHERE NOT resolved LIMIT 10000) letters"
LAST_HOUR: Final = """
SELECT coalesce(sum(received), 0)::bigint, coalesce(sum(refused), 0)::bigint
FROM ledger_now WHERE hour >= now() - interval '1 hour'
"""
REASONS: Final = """
SELECT reason, count(*) FROM dead_letters
WHERE received_at >= now() - interval '1 hour' GROUP BY reason ORDER BY count(*) DESC LIMIT 3
"""

RECEIVED: Final = "sum(rate(pipeline_bridge_messages_acknowledged_total[5m]))"
STORED: Final = 'sum(rate(pipeline_sink_readings_total{outcome="stored"}[5m]))'
REFUSED: Final = "sum(rate(pipeline_sink_refused_total[5m]))"
VOLUME_FREE: Final = "kubelet_volume_stats_available_bytes"
VOLUME_SIZE: Final = "kubelet_volume_stats_capacity_bytes"


async def kafka(settings: StatusSettings) -> tuple[Part, Lag | None, str]:
    """Also how far behind the group is, and what is wrong with the topics."""
    names, where = topics.Topics(settings), settings.kafka_bootstrap_servers
    try:
        async with (
            asyncio.timeout(SECONDS),
            lag.Kafka(for_aiokafka(settings), group=settings.consumer_group, topic=names.raw) as client,
        ):
            partitions = await client.look()
    except (KafkaError, OSError, TimeoutError) as error:
        if "UnknownTopic" in type(error).__name__:
            return Part(name=KAFKA, state=State.WELL, address=where, up=True), None, f"topic {names.raw} does not exist"
        return away(KAFKA, where, str(error) or f"no answer within {SECONDS:g} s"), None, ""
    try:
        await asyncio.to_thread(topics.check, settings)
        wrong = ""
    except (topics.TopicsError, topics.KafkaAwayError) as error:
        wrong = str(error).partition("\n")[0]
    behind = Lag(
        records=sum(one.records for one in partitions),
        messages=sum(one.messages for one in partitions),
        seconds=max((one.seconds for one in partitions), default=0.0),
    )
    detail = f"{len(partitions)} partitions of {names.raw}"
    return Part(name=KAFKA, state=State.WELL, address=where, up=True, detail=detail), behind, wrong


async def database(settings: StatusSettings) -> tuple[Part, Tables | None]:
    url = settings.database_url.get_secret_value()
    facts = conninfo_to_dict(url)
    where = f"{facts.get('host', 'localhost')}:{facts.get('port', 5432)}/{facts.get('dbname', '')}"
    try:
        async with asyncio.timeout(SECONDS):
            connection = await AsyncConnection.connect(
                url, autocommit=True, application_name="brigade-status", connect_timeout=3
            )
            async with connection:
                return await _look_into(connection, where)
    except TimeoutError:
        return away(DATABASE, where, f"no answer within {SECONDS:g} s"), None
    except psycopg.Error as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        ours = "authentication failed" in why or "permission denied" in why or "could not translate host" in why
        return away(DATABASE, where, why, ours=ours), None


async def _look_into(connection: AsyncConnection, where: str) -> tuple[Part, Tables]:
    version, extension, size, since = await _row(connection, VERSIONS)
    told = f"PostgreSQL {version.split()[0]}" + (f", TimescaleDB {extension}" if extension else "")
    part = Part(
        name=DATABASE,
        state=State.WELL,
        address=where,
        up=True,
        version=told,
        since=since,
        detail=f"{_gb(size)} of data",
    )
    known = migrations(MIGRATIONS)
    try:
        applied = [name for (name,) in await (await connection.execute(APPLIED)).fetchall()]
    except psycopg.errors.UndefinedTable:
        applied = []
    missing = len(known) - len(applied)
    if missing:  # the tables are not those that the questions below are about
        return part, Tables(migration=applied[-1] if applied else "", missing_migrations=missing, size_bytes=size)
    received, refused = await _row(connection, LAST_HOUR)
    return part, Tables(
        migration=applied[-1],
        size_bytes=size,
        dead_letters_open=(await _row(connection, OPEN_LETTERS))[0],
        readings_last_hour=received,
        refused_last_hour=refused,
        reasons_last_hour=await (await connection.execute(REASONS)).fetchall(),
    )


async def _row(connection: AsyncConnection, query: Any) -> Any:
    return await (await connection.execute(query)).fetchone()


async def broker(settings: StatusSettings) -> Part:
    where = f"{settings.mqtt_host}:{settings.mqtt_port}"
    secret = settings.mqtt_password.get_secret_value() if settings.mqtt_password else None
    client = Client(
        settings.mqtt_host,
        settings.mqtt_port,
        f"brigade-status-{secrets.token_hex(4)}",
        user=settings.mqtt_user,
        password=secret,
        tls=settings.mqtt_tls_context,
        clean_start=True,
        connect_seconds=3,
    )
    began = time.monotonic()
    try:
        async with client:
            detail = f"let us in within {1000 * (time.monotonic() - began):.0f} ms"
            return Part(name=BROKER, state=State.WELL, address=where, up=True, detail=detail)
    except RefusedError as error:  # it answers; who may come in is another matter
        return Part(name=BROKER, state=State.WELL, address=where, up=True, detail=str(error))
    except OutageError as error:
        return away(BROKER, where, str(error))


def disk(settings: StatusSettings) -> list[Disk]:
    if not settings.status_data:
        return []
    try:
        usage = shutil.disk_usage(settings.status_data)
    except OSError:
        return []
    return [Disk(name=settings.status_data, free_bytes=usage.free, size_bytes=usage.total)]


class Prometheus:
    """What it tells; `httpx.HTTPError`, or a `ValueError` or `KeyError`, where it does not."""

    def __init__(self, client: httpx.AsyncClient, url: str) -> None:
        self._client = client
        self._url = url.rstrip("/")

    async def part(self) -> Part:
        version = str((await self._get("/api/v1/status/buildinfo"))["data"]["version"])
        return Part(name=PROMETHEUS, state=State.WELL, address=self._url, up=True, version=version)

    async def rates(self) -> Rates | None:
        """None: it has not seen the pipeline for five minutes."""
        received, stored, refused = await asyncio.gather(*map(self._number, (RECEIVED, STORED, REFUSED)))
        if received is None and stored is None:
            return None
        return Rates(over_seconds=RATE_SECONDS, received=received, stored=stored, refused=refused)

    async def volumes(self) -> list[Disk]:
        """The claims of a cluster."""
        free, sizes = await asyncio.gather(self._query(VOLUME_FREE), self._query(VOLUME_SIZE))
        by_name = {labels.get("persistentvolumeclaim", "?"): value for labels, value in sizes}
        return [
            Disk(name=name, free_bytes=int(value), size_bytes=int(by_name[name]))
            for labels, value in free
            if by_name.get(name := labels.get("persistentvolumeclaim", "?"))
        ]

    async def alerts(self) -> list[Alert]:
        found = (await self._get("/api/v1/alerts"))["data"]["alerts"]
        return [_alert(alert) for alert in found if alert["state"] == "firing"]

    async def _number(self, query: str) -> float | None:
        found = await self._query(query)
        return found[0][1] if found and math.isfinite(found[0][1]) else None

    async def _query(self, query: str) -> list[tuple[dict[str, str], float]]:
        answer = await self._get("/api/v1/query", query=query)
        return [(series["metric"], float(series["value"][1])) for series in answer["data"]["result"]]

    async def _get(self, path: str, **parameters: str) -> Any:
        return (await self._client.get(f"{self._url}{path}", params=parameters)).raise_for_status().json()


def _alert(alert: Any) -> Alert:
    labels, notes = alert["labels"], alert.get("annotations", {})
    return Alert(
        name=labels["alertname"],
        severity=labels.get("severity", ""),
        since=datetime.fromisoformat(alert["activeAt"]) if alert.get("activeAt") else None,
        summary=notes.get("summary", ""),
        runbook=notes.get("runbook_url") or notes.get("runbook", ""),
    )


def away(name: str, where: str, why: str, *, ours: bool = False) -> Part:
    return Part(name=name, state=State.UNKNOWN if ours else State.WRONG, address=where, up=False, detail=why)


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"
