"""Every setting of the pipeline, read from `BRIGADE_…` environment variables by entry points alone.

`docs/settings.md` is generated from these classes.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from datetime import timedelta
from difflib import get_close_matches
from typing import Annotated, Literal, Self, TypeVar
from zoneinfo import ZoneInfo

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, SecretStr, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "BRIGADE_"


def _url(value: SecretStr) -> SecretStr:
    """Refused here if it can never work: once we connect, a wrong address looks like an outage."""
    try:
        parts = conninfo_to_dict(value.get_secret_value())
    except psycopg.ProgrammingError:
        parts = {}
    if not parts or not all(port.isdigit() for port in str(parts.get("port", 5432)).split(",")):
        raise ValueError("not a PostgreSQL address, such as postgresql://user:password@host:5432/database")
    return value


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (OSError, KeyError, ValueError) as error:
        raise ValueError("not a time zone, such as Asia/Seoul or UTC") from error
    return value


Port = Annotated[int, Field(ge=0, le=65535)]
DatabaseUrl = Annotated[SecretStr, AfterValidator(_url)]
TimeZone = Annotated[str, AfterValidator(_zone)]


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Events below it are not logged."
    )
    web_host: str = Field("127.0.0.1", description="Address of /metrics, /healthz and /readyz; 0.0.0.0 in a container.")


class KafkaSettings(Settings):
    kafka_bootstrap_servers: str = Field(
        "127.0.0.1:9092",
        pattern=r"^[^\s,]+:\d+(,[^\s,]+:\d+)*$",
        description="Kafka brokers, host:port, separated by commas.",
    )
    topic_prefix: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._-]{0,200}$",
        description="Put before every topic's name; for several installations on one Kafka.",
    )
    partitions: PositiveInt = Field(12, description="Partitions of `readings.raw`; fixed when the topics are created.")
    replication_factor: PositiveInt = Field(1, description="Replicas of each topic; 3 in a cluster.")
    min_insync_replicas: PositiveInt = Field(
        1, description="Replicas that must have a record before Kafka acknowledges it; 2 in a cluster."
    )
    readings_retention_hours: PositiveInt = Field(168, description="How long Kafka keeps `readings.raw`.")

    @model_validator(mode="after")
    def _enough_replicas_to_be_in_sync(self) -> Self:
        if self.min_insync_replicas > self.replication_factor:
            raise ValueError(
                "BRIGADE_MIN_INSYNC_REPLICAS must not exceed BRIGADE_REPLICATION_FACTOR: Kafka would accept no record"
            )
        return self


class DatabaseSettings(Settings):
    database_url: DatabaseUrl = Field(
        SecretStr("postgresql://brigade@127.0.0.1:5432/brigade"),
        description="The pipeline's database, as its ingesting role.",
    )


class CommandSettings(KafkaSettings, DatabaseSettings):
    """What `brigade`'s commands about sites and devices need."""


class MqttSettings(Settings):
    mqtt_host: str = Field("127.0.0.1", description="The MQTT broker's host.")
    mqtt_port: Port = Field(1883, description="The MQTT broker's port.")
    mqtt_user: str | None = Field(None, description="MQTT user name; none: anonymous.")
    mqtt_password: SecretStr | None = Field(None, description="MQTT password.")


class BridgeSettings(KafkaSettings, MqttSettings):
    bridge_ordinal: Annotated[int, Field(ge=0, le=7)] = Field(
        0, description="Which bridge this is: 0 to 7, one of each. Names the MQTT session, which outlives the process."
    )
    bridge_group: str = Field("bridge", pattern=r"^[^/+#]+$", description="Name of the shared subscription.")
    bridge_client_id: str = Field("brigade-bridge", description="Prefix of the MQTT client id; the ordinal follows.")
    bridge_receive_maximum: Annotated[int, Field(ge=1, le=65535)] = Field(
        10_000, description="MQTT messages in flight between the broker and Kafka's acknowledgement."
    )
    bridge_linger_seconds: PositiveFloat = Field(0.05, description="How long a pack waits for more messages.")
    bridge_held_bytes: PositiveInt = Field(
        32 << 20, description="Reading from the broker pauses above this many bytes held; the bridge has 75 MB besides."
    )
    bridge_port: Port = Field(9101, description="Port of /metrics, /healthz and /readyz.")


class WorkerSettings(KafkaSettings, DatabaseSettings):
    consumer_group: str = Field("brigade-worker", description="Kafka consumer group; also the key of `ingest_offsets`.")
    worker_port: Port = Field(9102, description="Port of /metrics, /healthz and /readyz.")
    worker_packs: PositiveInt = Field(200, description="Packs of one batch at the most.")
    worker_linger_seconds: PositiveFloat = Field(0.03, description="How long a batch waits for more packs.")
    future_limit_seconds: PositiveFloat = Field(
        300, description="A reading further ahead of its receipt than this is refused."
    )
    past_limit_days: PositiveFloat = Field(30, description="A reading further behind its receipt than this is refused.")
    close_after_seconds: PositiveFloat = Field(
        5, description="How long after its end a minute, hour or day is computed."
    )
    metrics_per_device: PositiveInt = Field(64, description="A device's metrics; beyond: dead letter.")
    metric_names: Annotated[int, Field(ge=1, le=32_000)] = Field(
        10_000, description="Metric names of the installation; beyond: dead letter."
    )
    devices_per_site: PositiveInt = Field(10_000, description="Devices of a site; beyond: dead letter.")
    site_time_zone: TimeZone = Field("UTC", description="Time zone (IANA) that a new site starts with.")
    raw_retention_days: PositiveInt = Field(90, description="How long readings are kept.")
    minute_retention_days: PositiveInt = Field(730, description="How long minutes are kept.")
    stuck_seconds: PositiveFloat = Field(
        120, description="Without progress for so long the worker exits, to be started again."
    )
    seek_seconds: PositiveFloat = Field(60, description="A seek after a rebalance that takes longer ends the worker.")
    session_timeout_seconds: PositiveFloat = Field(
        10, description="Kafka gives a silent worker's partitions away after this."
    )
    statement_timeout_seconds: PositiveFloat = Field(5, description="PostgreSQL's statement_timeout for the worker.")
    lock_timeout_seconds: PositiveFloat = Field(3, description="PostgreSQL's lock_timeout for the worker.")
    idle_in_transaction_seconds: PositiveFloat = Field(
        10, description="PostgreSQL's idle_in_transaction_session_timeout."
    )

    @model_validator(mode="after")
    def _recomputed_buckets_keep_their_rows(self) -> Self:
        shortest = min(self.raw_retention_days - 1, self.minute_retention_days - 7)  # less a chunk
        if self.past_limit_days >= shortest:
            raise ValueError(
                "BRIGADE_PAST_LIMIT_DAYS must be less than BRIGADE_RAW_RETENTION_DAYS and than "
                f"BRIGADE_MINUTE_RETENTION_DAYS, less a chunk ({shortest}): "
                "a late reading would have its minute computed from rows already dropped"
            )
        return self

    @property
    def past_limit(self) -> timedelta:
        return timedelta(days=self.past_limit_days)

    @property
    def future_limit(self) -> timedelta:
        return timedelta(seconds=self.future_limit_seconds)


class MaintainSettings(WorkerSettings):
    maintain_port: Port = Field(9104, description="Port of /metrics, /healthz and /readyz.")
    maintain_every_seconds: PositiveFloat = Field(3600, description="Time between two runs.")
    compress_after_days: PositiveInt = Field(
        45, description="Age at which chunks are compressed, where the edition can; above the past limit."
    )

    @model_validator(mode="after")
    def _compression_begins_after_the_past_limit(self) -> Self:
        if self.compress_after_days <= self.past_limit_days:
            raise ValueError(
                "BRIGADE_COMPRESS_AFTER_DAYS must be greater than BRIGADE_PAST_LIMIT_DAYS: "
                "late readings go into chunks that are not compressed"
            )
        return self


class LagSettings(KafkaSettings):
    consumer_group: str = Field("brigade-worker", description="The group whose lag is told.")
    lag_port: Port = Field(9103, description="Port of /metrics, /healthz and /readyz.")
    lag_every_seconds: PositiveFloat = Field(5, description="Time between two looks at Kafka.")


S = TypeVar("S", bound=BaseSettings)


def load(settings: type[S]) -> S:
    """The settings as the environment has them; where they are wrong, say which and why, and exit with 2."""
    for line in misspelt(os.environ):
        sys.stderr.write(f"{line}\n")
    try:
        return settings()
    except ValidationError as error:
        sys.stderr.write("\n".join([*told(settings, error), "docs/settings.md lists every setting.", ""]))
        raise SystemExit(2) from None


def misspelt(names: Iterable[str]) -> list[str]:
    """A line for each variable that is no setting of any part but looks like one: it would be ignored silently."""
    known = {f"{PREFIX}{name}".upper() for part in _parts(Settings) for name in part.model_fields}
    return [
        f"{name} is no setting and is ignored; did you mean {close[0]}?"
        for name in sorted(names)
        if name.startswith(PREFIX) and name not in known and (close := get_close_matches(name, known, 1, 0.9))
    ]


def _parts(settings: type[Settings]) -> Iterator[type[Settings]]:
    yield settings
    for part in settings.__subclasses__():
        yield from _parts(part)


def told(settings: type[BaseSettings], error: ValidationError) -> list[str]:
    """A line for each wrong setting: its variable, its value unless secret, what is wrong, what it is for."""
    return [_line(settings, wrong) for wrong in error.errors()]


def _line(settings: type[BaseSettings], wrong: ErrorDetails) -> str:
    reason = wrong["msg"].removeprefix("Value error, ")
    if not wrong["loc"]:
        return reason  # two settings contradict each other: the text names them
    name = str(wrong["loc"][0])
    field = settings.model_fields[name]
    value = "" if "Secret" in repr(field.annotation) else f"={wrong['input']}"
    variable = f"{settings.model_config['env_prefix']}{name}".upper()
    return f"{variable}{value}: {reason[0].lower()}{reason[1:]}. It means: {field.description}"
