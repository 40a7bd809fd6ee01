"""Every setting of users, `BRIGADE_USERS_…`, read from environment or files by the entry points alone."""

import base64
import binascii
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import AliasChoices, Field, PositiveFloat, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from observability import tls
from observability.settings import Settings
from users.broker import Address

PREFIX: Final = "BRIGADE_USERS_"
SECRET_BYTES: Final = 32

Port = Annotated[int, Field(ge=0, le=65535)]


class DatabaseSettings(Settings):
    """What is enough to make the tables."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)

    database_url: SecretStr = Field(
        SecretStr("postgresql://brigade_users@127.0.0.1:5432/brigade_users"),
        description="The database of users, as its owner.",
    )
    log_level: str = Field(
        "INFO",
        validation_alias=AliasChoices("BRIGADE_LOG_LEVEL", "log_level"),
        description="DEBUG, INFO, WARNING or ERROR.",
        pattern="^(DEBUG|INFO|WARNING|ERROR)$",
    )

    @field_validator("database_url")
    @classmethod
    def _names_a_database(cls, url: SecretStr) -> SecretStr:
        try:
            conninfo_to_dict(url.get_secret_value())
        except ProgrammingError:
            raise ValueError("must be a URL such as postgresql://user:password@host:5432/brigade_users") from None
        return url


class CommandSettings(DatabaseSettings):
    """What `brigade users` needs beside the database."""

    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="Sessions and throttles live there; it must be persistent (appendonly yes).",
    )
    secret: SecretStr = Field(
        description="Base64 of 32 random bytes (`openssl rand -base64 32`): encrypts signing keys and second factors "
        "at rest. Whoever loses it has to rotate the keys, and people have to set up their second factor again.",
    )

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, url: SecretStr) -> SecretStr:
        if urlsplit(url.get_secret_value()).scheme not in {"redis", "rediss", "unix"}:
            raise ValueError("must be a URL such as redis://:password@host:6379/0")
        return url

    @field_validator("secret")
    @classmethod
    def _is_long_enough(cls, secret: SecretStr) -> SecretStr:
        if len(_decoded(secret)) != SECRET_BYTES:
            raise ValueError(f"must be base64 of {SECRET_BYTES} bytes: openssl rand -base64 {SECRET_BYTES}")
        return secret

    @property
    def key(self) -> bytes:
        return _decoded(self.secret)


class BrokerSettings(CommandSettings):
    """What changing devices' credentials needs beside them."""

    mqtt_host: str = Field("127.0.0.1", description="The MQTT broker's host, as users reaches it.")
    mqtt_port: Port = Field(1883, description="The MQTT broker's port, as users reaches it.")
    mqtt_admin_user: str = Field(
        "brigade/users", description="The broker's account that may change others (Mosquitto's dynamic security)."
    )
    mqtt_admin_password: SecretStr = Field(description="Its password.")
    mqtt_tls: bool = Field(False, description="Whether users speaks TLS to it; its port is then mostly 8883.")
    mqtt_tls_ca: tls.PemFile = Field(
        "", description="File (PEM) of the authority that signed the broker's certificate; none: the system's."
    )
    mqtt_tls_cert: tls.PemFile = Field("", description="File (PEM) of our own certificate, where the broker wants one.")
    mqtt_tls_key: tls.PemFile = Field("", description="File (PEM) of its key.")
    mqtt_public_host: str = Field(
        "", description="The broker's host as devices reach it, told with a new password; none: as users does."
    )
    mqtt_public_port: Port = Field(0, description="The broker's port as devices reach it; 0: as users does.")
    mqtt_public_tls: bool = Field(False, description="Whether devices reach the broker through TLS.")

    @property
    def broker(self) -> Address:
        password = self.mqtt_admin_password.get_secret_value()
        files = (self.mqtt_tls_ca, self.mqtt_tls_cert, self.mqtt_tls_key)
        context = tls.context(*files) if self.mqtt_tls else None
        return Address(self.mqtt_host, self.mqtt_port, self.mqtt_admin_user, password, context)

    @model_validator(mode="after")
    def _the_broker_can_be_spoken_to(self) -> Self:
        files = (self.mqtt_tls_ca, self.mqtt_tls_cert, self.mqtt_tls_key)
        tls.check_switch(*files, on=self.mqtt_tls, names="BRIGADE_USERS_MQTT_TLS")
        return self


class UsersSettings(BrokerSettings):
    host: str = Field("127.0.0.1", description="Address users listens on; only the gateway needs to reach it.")
    port: Port = Field(8001, description="Port users listens on.")
    metrics_host: str = Field("127.0.0.1", description="Address of /metrics, /healthz and /readyz.")
    metrics_port: Port = Field(9105, description="Port of /metrics, /healthz and /readyz.")
    internal_secret: SecretStr = Field(
        description="The text, 32 characters or more, with which the gateway signs who is calling "
        "(BRIGADE_GATEWAY_INTERNAL_SECRET).",
    )
    public_url: str = Field(
        "http://127.0.0.1:8000", description="Where people find the pages; links in mails begin with it."
    )
    mail_url: SecretStr = Field(
        description="smtp://user:password@host:587, smtps://…, or file:///folder: mails are then files in there.",
    )
    mail_from: str = Field(
        "Brigade <brigade@localhost>", description="The sender of mails.", pattern=r"^[^\r\n]*@[^\r\n]*$"
    )
    pool_size: Annotated[int, Field(ge=2, le=100)] = Field(8, description="Database connections at the most.")
    pool_wait_seconds: PositiveFloat = Field(1, description="A request waits so long for a connection, then 503.")
    hashing_threads: Annotated[int, Field(ge=1, le=32)] = Field(
        2, description="Passwords hashed at once; each takes 19 MiB and a core for about 30 ms."
    )
    audit_days: Annotated[int, Field(ge=1)] = Field(400, description="Audit events are kept so long.")

    @field_validator("internal_secret")
    @classmethod
    def _is_a_secret(cls, secret: SecretStr) -> SecretStr:
        if len(secret.get_secret_value()) < SECRET_BYTES:
            raise ValueError(f"must be at least {SECRET_BYTES} characters: openssl rand -hex {SECRET_BYTES}")
        return secret

    @field_validator("public_url")
    @classmethod
    def _is_a_page(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.netloc or parts.query or parts.fragment:
            raise ValueError("must be a URL such as https://brigade.example.com")
        return url.rstrip("/")

    @field_validator("mail_url")
    @classmethod
    def _takes_mail(cls, url: SecretStr) -> SecretStr:
        parts = urlsplit(url.get_secret_value())
        good = parts.hostname if parts.scheme in {"smtp", "smtps"} else parts.scheme == "file" and parts.path != ""
        if not good:
            raise ValueError("must be smtp://…, smtps://… or file:///folder")
        return url


def _decoded(secret: SecretStr) -> bytes:
    try:
        return base64.b64decode(secret.get_secret_value(), validate=True)
    except (binascii.Error, ValueError):
        return b""
