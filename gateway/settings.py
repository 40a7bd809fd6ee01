"""Every setting of the gateway, read from `BRIGADE_GATEWAY_…` environment variables by the entry point alone."""

import sys
from typing import Annotated, TypeVar

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import AliasChoices, Field, PositiveFloat, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Port = Annotated[int, Field(ge=0, le=65535)]


class GatewaySettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="BRIGADE_GATEWAY_", extra="ignore", frozen=True)

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


S = TypeVar("S", bound=BaseSettings)


def load(settings: type[S]) -> S:
    """The settings as the environment has them; where they are wrong, name the variable and exit with 2."""
    try:
        return settings()
    except ValidationError as error:
        for wrong in error.errors():
            sys.stderr.write(f"{_variable(str(wrong['loc'][0]))}: {wrong['msg'].removeprefix('Value error, ')}\n")
        raise SystemExit(2) from None


def _variable(name: str) -> str:
    return name if name.startswith("BRIGADE_") else f"BRIGADE_GATEWAY_{name}".upper()
