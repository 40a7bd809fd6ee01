"""Every setting of the pipeline, `BRIGADE_…`, read from environment or files by entry points alone.

`docs/settings.md` is generated from these classes.
"""

import ssl
import sys
from collections.abc import Iterable, Iterator
from datetime import timedelta
from difflib import get_close_matches
from typing import Annotated, Literal, Self, TypeVar
from zoneinfo import ZoneInfo

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, SecretStr, model_validator

from observability import settings as shared
from observability import tls
from observability.settings import FOLDER, PREFIX


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
Password = Annotated[SecretStr, Field(min_length=8)]


class Settings(shared.Settings):
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
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="Kafka's own word for it: SSL is TLS, SASL is with an account."
    )
    kafka_ssl_ca: tls.PemFile = Field(
        "", description="File (PEM) of the authority that signed Kafka's certificate; none: the system's."
    )
    kafka_ssl_cert: tls.PemFile = Field("", description="File (PEM) of our own certificate, where Kafka wants one.")
    kafka_ssl_key: tls.PemFile = Field("", description="File (PEM) of its key.")
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="How the password is shown; PLAIN over TLS only."
    )
    kafka_sasl_user: str | None = Field(None, description="Our account in Kafka.")
    kafka_sasl_password: SecretStr | None = Field(None, description="Its password.")

    @model_validator(mode="after")
    def _enough_replicas_to_be_in_sync(self) -> Self:
        if self.min_insync_replicas > self.replication_factor:
            raise ValueError(
                "BRIGADE_MIN_INSYNC_REPLICAS must not exceed BRIGADE_REPLICATION_FACTOR: Kafka would accept no record"
            )
        return self

    @property
    def kafka_by_tls(self) -> bool:
        return self.kafka_security_protocol.endswith("SSL")

    @property
    def kafka_by_account(self) -> bool:
        return self.kafka_security_protocol.startswith("SASL")

    @model_validator(mode="after")
    def _kafka_can_be_spoken_to(self) -> Self:
        files = (self.kafka_ssl_ca, self.kafka_ssl_cert, self.kafka_ssl_key)
        if self.kafka_by_tls:
            tls.check(*files, names="BRIGADE_KAFKA_SSL")
        elif any(files):
            raise ValueError("BRIGADE_KAFKA_SSL_… is of no use: BRIGADE_KAFKA_SECURITY_PROTOCOL is without TLS")
        if self.kafka_by_account != bool(self.kafka_sasl_user and self.kafka_sasl_password):
            raise ValueError(
                "BRIGADE_KAFKA_SASL_USER and BRIGADE_KAFKA_SASL_PASSWORD are for BRIGADE_KAFKA_SECURITY_PROTOCOL "
                "SASL_SSL or SASL_PLAINTEXT, which needs both"
            )
        if self.kafka_security_protocol == "SASL_PLAINTEXT" and self.kafka_sasl_mechanism == "PLAIN":
            raise ValueError("BRIGADE_KAFKA_SASL_MECHANISM=PLAIN would send the password for all to read: use SASL_SSL")
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
    mqtt_tls: bool = Field(False, description="Whether the broker is spoken to by TLS; its port is then mostly 8883.")
    mqtt_tls_ca: tls.PemFile = Field(
        "", description="File (PEM) of the authority that signed the broker's certificate; none: the system's."
    )
    mqtt_tls_cert: tls.PemFile = Field("", description="File (PEM) of our own certificate, where the broker wants one.")
    mqtt_tls_key: tls.PemFile = Field("", description="File (PEM) of its key.")

    @model_validator(mode="after")
    def _the_broker_can_be_spoken_to(self) -> Self:
        files = (self.mqtt_tls_ca, self.mqtt_tls_cert, self.mqtt_tls_key)
        tls.check_switch(*files, on=self.mqtt_tls, names="BRIGADE_MQTT_TLS")
        return self

    @property
    def mqtt_tls_context(self) -> ssl.SSLContext | None:
        """For the next connection; None: without TLS."""
        return tls.context(self.mqtt_tls_ca, self.mqtt_tls_cert, self.mqtt_tls_key) if self.mqtt_tls else None


class AlertSettings(Settings):
    alertmanager_url: str = Field(
        "http://127.0.0.1:9093", pattern=r"^https?://[^\s/]+$", description="Alertmanager, for `brigade alerts`."
    )


class BrokerSettings(MqttSettings):
    broker_port: Port = Field(9110, description="Port of /metrics, /healthz and /readyz.")


class BridgeSettings(KafkaSettings, MqttSettings):
    bridge_ordinal: Annotated[int, Field(ge=0, le=7)] = Field(
        0, description="Which bridge this is: 0 to 7, one of each. Names the MQTT session, which outlives the process."
    )
    bridge_group: str = Field("bridge", pattern=r"^[^/+#]+$", description="Name of the shared subscription.")
    bridge_client_id: str = Field("brigade-bridge", description="Prefix of the MQTT client id; the ordinal follows.")
    bridge_receive_maximum: Annotated[int, Field(ge=1, le=65535)] = Field(
        10_000, description="MQTT messages in flight between the broker and Kafka's acknowledgement."
    )
    bridge_linger_seconds: PositiveFloat = Field(
        0.03, description="How long a pack waits for more messages; twice as long while many come."
    )
    bridge_held_bytes: PositiveInt = Field(
        32 << 20, description="Reading from the broker pauses above this many bytes held; the bridge has 75 MB besides."
    )
    bridge_port: Port = Field(9101, description="Port of /metrics, /healthz and /readyz.")


class WorkerSettings(KafkaSettings, DatabaseSettings):
    consumer_group: str = Field("brigade-worker", description="Kafka consumer group; also the key of `ingest_offsets`.")
    worker_port: Port = Field(9102, description="Port of /metrics, /healthz and /readyz.")
    worker_packs: PositiveInt = Field(200, description="Packs of one batch at the most.")
    worker_linger_seconds: PositiveFloat = Field(0.01, description="How long a batch waits for more packs.")
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
    fleet_every_seconds: PositiveFloat = Field(
        30, description="Time between two counts of devices, open dead letters and what waits in the database."
    )
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


class StatusSettings(KafkaSettings, DatabaseSettings, MqttSettings):
    consumer_group: str = Field("brigade-worker", description="The group whose lag is told.")
    status_parts: str = Field(
        "bridge=http://127.0.0.1:9101 worker=http://127.0.0.1:9102 lag=http://127.0.0.1:9103"
        " maintain=http://127.0.0.1:9104 users=http://127.0.0.1:9105 gateway=http://127.0.0.1:9100",
        pattern=r"^\s*([a-z0-9][a-z0-9-]*=https?://[^\s/]+\s*)+$",
        description="Every process that `brigade status` asks: its name, and where its /healthz is; blanks between.",
    )
    status_prometheus_url: str = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="Prometheus, for rates and alerts; empty: the processes are asked.",
    )
    status_logs: str = Field(
        "", description="Folder with `<part>.log` of each process: what one that is down said last. Empty: none."
    )
    status_data: str = Field("", description="Folder of the servers' data, whose disk must not fill up. Empty: none.")

    @property
    def parts(self) -> dict[str, str]:
        """Address by name."""
        pairs = (pair.split("=", 1) for pair in self.status_parts.split())
        return {name: address.rstrip("/") for name, address in pairs}


class InstallSettings(Settings):
    install_wait_seconds: PositiveFloat = Field(
        60, description="How long `brigade install …` waits for a server that does not answer yet."
    )


class InstallDatabaseSettings(InstallSettings):
    install_database_url: DatabaseUrl = Field(
        description="The pipeline's PostgreSQL server, database `postgres`, as a superuser, or as a role with "
        "CREATEROLE and CREATEDB."
    )
    install_users_database_url: DatabaseUrl | None = Field(
        None, description="The same for the users' server; none: it is the pipeline's."
    )
    install_password_owner: Password = Field(
        description="The password of role `brigade`, which owns the tables, migrates and maintains."
    )
    install_password_worker: Password = Field(description="That of role `brigade_worker`.")
    install_password_api: Password = Field(description="That of role `brigade_api`, the gateway's.")
    install_password_monitor: Password = Field(description="That of role `brigade_monitor`, the exporter's.")
    install_password_grafana: Password = Field(description="That of role `brigade_grafana`.")
    install_password_users: Password = Field(description="That of role `brigade_users`.")


class InstallTopicsSettings(InstallSettings, KafkaSettings):
    """What `brigade install topics` needs."""


class InstallBrokerSettings(InstallSettings):
    install_mqtt_password_users: Password = Field(description="The password of MQTT account `brigade/users`.")
    install_mqtt_password_bridge: Password = Field(description="That of `brigade/bridge`.")
    install_mqtt_password_monitor: Password = Field(description="That of `brigade/monitor`.")
    install_mqtt_password_any_device: Password | None = Field(
        None, description="That of `brigade/any-device`, which may do everything: for tests. None: no such account."
    )


class InstallWaitSettings(InstallTopicsSettings, DatabaseSettings):
    """What `brigade install wait` needs."""


S = TypeVar("S", bound=Settings)


def load(settings: type[S]) -> S:
    """The settings as environment and files have them; where they are wrong, say which and why, and exit with 2."""
    for line in misspelt(shared.names()):
        sys.stderr.write(f"{line}\n")
    return shared.load(settings)


def misspelt(names: Iterable[str]) -> list[str]:
    """A line for each name that is no setting of any part but looks like one: it would be ignored silently."""
    known = {f"{PREFIX}{name}".upper() for part in _parts(Settings) for name in part.model_fields} | {FOLDER}
    return [
        f"{name} is no setting and is ignored; did you mean {close[0]}?"
        for name in sorted(names)
        if name.startswith(PREFIX) and name not in known and (close := get_close_matches(name, known, 1, 0.9))
    ]


def _parts(settings: type[Settings]) -> Iterator[type[Settings]]:
    yield settings
    for part in settings.__subclasses__():
        yield from _parts(part)
