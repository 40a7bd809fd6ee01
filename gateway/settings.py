"""Every setting of the gateway, `BRIGADE_GATEWAY_…`, read from environment or files by the entry point alone."""

from typing import Annotated
from urllib.parse import urlsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import AliasChoices, Field, PositiveFloat, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from observability.settings import Settings

Port = Annotated[int, Field(ge=0, le=65535)]
Rate = Annotated[int, Field(ge=1, le=1_000_000)]
SECRET_BYTES = 32


class GatewaySettings(Settings):
    model_config = SettingsConfigDict(env_prefix="BRIGADE_GATEWAY_")

    database_url: SecretStr = Field(
        SecretStr("postgresql://brigade_gateway@127.0.0.1:5432/brigade"),
        description="The pipeline's database, as a member of the role brigade_gateway.",
    )
    host: str = Field("127.0.0.1", description="Address the API listens on.")
    port: Port = Field(8000, description="Port the API listens on.")
    metrics_host: str = Field("127.0.0.1", description="Address of /metrics, /healthz and /readyz.")
    metrics_port: Port = Field(9100, description="Port of /metrics, /healthz and /readyz.")
    pool_size: Annotated[int, Field(ge=2, le=100)] = Field(
        8, description="Database connections at the most; streamed answers may hold all but one."
    )
    pool_wait_seconds: PositiveFloat = Field(3, description="A request waits so long for a connection, then 503.")
    statement_timeout_seconds: PositiveFloat = Field(
        10, description="PostgreSQL's statement_timeout for the gateway; beyond it, 504 with advice."
    )
    stalled_client_seconds: PositiveFloat = Field(
        60, description="A client that takes no bytes of a streamed answer for so long loses it."
    )
    stalled_stream_seconds: PositiveFloat = Field(
        10, description="A client of the live stream that takes no bytes for so long loses it."
    )
    slow_request_seconds: PositiveFloat = Field(
        10, description="A client that needs longer to send a request's head, or its body, loses its connection."
    )
    body_limit_bytes: Annotated[int, Field(ge=1024, le=16 * 2**20)] = Field(
        65_536, description="A request's body may have so many bytes; beyond, 413."
    )
    users_url: str = Field("http://127.0.0.1:8001", description="The users service.")
    internal_secret: SecretStr = Field(
        description="At least 32 bytes, the same as BRIGADE_USERS_INTERNAL_SECRET: signs what the gateway tells users."
    )
    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"), description="Redis, for the rate limits of all gateways together."
    )
    rate_people: Rate = Field(100, description="Requests of one person in any minute.")
    rate_machines: Rate = Field(600, description="Requests of one API key in any minute.")
    rate_login: Rate = Field(
        20, description="Log-ins, password resets and the like, and refused keys, from one address in any minute."
    )
    streams: Rate = Field(20, description="Live streams of one person or key at once, in one process.")
    trusted_hops: Annotated[int, Field(ge=0, le=10)] = Field(
        0, description="Proxies of yours in front of the gateway: so many entries of X-Forwarded-For are believed."
    )
    allowed_origins: str = Field(
        "",
        description="Other origins whose pages may call the API with a token (CORS), separated by commas.",
        examples=["https://kitchen.example.org"],
    )
    pages: str = Field("", description="Folder of the built pages; empty: the API alone.")
    prometheus_url: str = Field(
        "", description="Prometheus, for /api/v1/system; empty: it says what the database knows."
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
            raise ValueError("must be a URL such as postgresql://user:password@host:5432/brigade") from None
        return url

    @field_validator("internal_secret")
    @classmethod
    def _is_long(cls, secret: SecretStr) -> SecretStr:
        if len(secret.get_secret_value().encode()) < SECRET_BYTES:
            raise ValueError(f"must have at least {SECRET_BYTES} bytes")
        return secret

    @field_validator("users_url", "prometheus_url")
    @classmethod
    def _names_a_server(cls, url: str) -> str:
        parts = urlsplit(url)
        if url and (parts.scheme not in {"http", "https"} or not parts.hostname):
            raise ValueError("must be a URL such as http://127.0.0.1:8001")
        return url.rstrip("/")

    @field_validator("redis_url")
    @classmethod
    def _names_redis(cls, url: SecretStr) -> SecretStr:
        if urlsplit(url.get_secret_value()).scheme not in {"redis", "rediss", "unix"}:
            raise ValueError("must be a URL such as redis://127.0.0.1:6379/0")
        return url

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, origins: str) -> str:
        for origin in filter(None, origins.split(",")):
            parts = urlsplit(origin)
            if (
                parts.scheme not in {"http", "https"}
                or not parts.hostname
                or origin != f"{parts.scheme}://{parts.netloc}"
            ):
                raise ValueError("must be origins such as https://kitchen.example.org, separated by commas, never *")
        return origins

    @property
    def origins(self) -> list[str]:
        return [origin for origin in self.allowed_origins.split(",") if origin]
