"""Accounts: the first owner, sessions, signing keys, the tables of users."""

import asyncio
import getpass
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, TypeVar

import psycopg
import structlog
import typer
from psycopg import AsyncConnection
from psycopg.rows import dict_row
from pydantic import TypeAdapter, ValidationError
from redis.exceptions import RedisError

from observability.settings import load
from users import accounts, audit, credentials_command, migrate, owners, pages, second_factor, signing
from users.audit import Actor
from users.database import Connection, redis_of
from users.owners import Owner
from users.passwords import HASHER
from users.problems import BadRequestError
from users.sealing import Sealer, SealError
from users.sessions import Sessions
from users.settings import CommandSettings, DatabaseSettings
from users.signing import Key

NEXT_EPOCH: Final = "UPDATE people SET epoch = epoch + 1 WHERE organisation = %s AND id = %s"

app = typer.Typer(help=__doc__, no_args_is_help=True)
keys = typer.Typer(help="The keys that sign access tokens.", no_args_is_help=True)
sessions = typer.Typer(help="Where people are logged in.", no_args_is_help=True)
app.add_typer(keys, name="keys")
app.add_typer(sessions, name="sessions")
app.add_typer(credentials_command.app, name="credentials")

T = TypeVar("T")
Email = Annotated[str, typer.Argument(help="The account's e-mail address.")]


@app.command("migrate")
def migrate_command(
    *, check: Annotated[bool, typer.Option("--check", help="Change nothing; exit with 1 if something lacks.")] = False
) -> None:
    """Bring the database of users to the tables of this version; safe to run again, and by several at once."""
    url = load(DatabaseSettings).database_url.get_secret_value()
    try:
        missing = migrate.lacking(url) if check else []
        applied = [] if check else migrate.migrate(url)
    except migrate.MigrationError as error:
        stop(str(error))
    except psycopg.OperationalError as error:
        stop(f"the database at BRIGADE_USERS_DATABASE_URL: {error}")
    if missing:
        stop(f"the database at BRIGADE_USERS_DATABASE_URL lacks migration {', '.join(missing)}")
    for name in applied or ["nothing to do"]:
        print(name)


@app.command("create-owner")
def create_owner(
    email: Email,
    site: Annotated[str, typer.Option(help="The site's name, as in MQTT topics; made if it is not there.")],
    site_name: Annotated[str, typer.Option(help="What people call the site; else its name.")] = "",
    time_zone: Annotated[str, typer.Option(help="Of a new site, such as Asia/Seoul.")] = "UTC",
    name: Annotated[str, typer.Option(help="The owner's name; else what is before the @.")] = "",
    language: Annotated[str, typer.Option(help="en or ko.")] = "en",
    organisation: Annotated[
        str, typer.Option(help="The name of the organisation, if it is the first owner.")
    ] = "Brigade",
    password_file: Annotated[
        Path | None, typer.Option(help="Has the password in its first line; - is standard input, as is a pipe.")
    ] = None,
    first: Annotated[bool, typer.Option("--first", help="Do nothing if there is an owner already.")] = False,
) -> None:
    """Make an account that owns a site. It asks for the password, or reads it from a file or a pipe."""
    owner = Owner(
        email=valid("EMAIL", pages.Email, email),
        name=valid("--name", pages.Name, name or email.partition("@")[0]),
        language=valid("--language", pages.Language, language),
        password="",
        site=valid("--site", pages.SiteName, site),
        site_name=valid("--site-name", pages.Name, site_name or site),
        time_zone=valid("--time-zone", pages.TimeZone, time_zone),
        organisation=valid("--organisation", pages.Name, organisation),
    )
    if first and run(owners.is_there_any):
        print("there is an owner already")
        return
    hashed = HASHER.hash(new_password(password_file, owner.email))
    try:
        run(lambda connection: owners.create(connection, owner.with_password(hashed)))
    except owners.TakenError:
        stop(f"{owner.email} has an account already: an owner of {site} can invite it")
    print(f"{owner.email} owns {site}")


@keys.command("list")
def list_keys() -> None:
    """The live keys; a token's header says which one signed it."""
    told(run(lambda connection: signing.present(connection, Sealer(load(CommandSettings).key))))


@keys.command()
def rotate(
    replace: Annotated[
        bool, typer.Option("--replace", help="Forget every key at once: all tokens are void. After a leak.")
    ] = False,
) -> None:
    """The next key signs from now on; a new next one is made. Every process knows it within seconds."""
    sealer = Sealer(load(CommandSettings).key)
    work = signing.replace if replace else signing.rotate
    try:
        told(run(lambda connection: work(connection, sealer)))
    except signing.TooSoonError:
        stop("the last rotation is less than 15 minutes ago: tokens of the key before it may still be in use")


@sessions.command("list")
def list_sessions(email: Email) -> None:
    """Where somebody is logged in."""

    async def go(connection: Connection, store: Sessions) -> None:
        person = await found(connection, email)
        for session in await store.of(person["id"]):
            times = f"since {session.created_at:%F %R}  seen {session.seen_at:%F %R}"
            print(f"{session.id}  {times}  {session.ip:15}  {session.agent}")

    run(lambda connection: with_sessions(lambda store: go(connection, store)))


@sessions.command("end")
def end_sessions(email: Email) -> None:
    """Log somebody out everywhere; an access token lasts ten minutes more at the gateway."""

    async def go(connection: Connection, store: Sessions) -> int:
        person = await found(connection, email)
        await connection.execute(NEXT_EPOCH, (person["organisation"], person["id"]))
        detail = {"person": str(person["id"]), "email": person["email"]}
        await audit.record(connection, "sessions.ended", Actor.operator(person["organisation"]), detail=detail)
        return await store.end_all(person["id"])

    print(f"{run(lambda connection: with_sessions(lambda store: go(connection, store)))} ended")


@app.command("second-factor-off")
def second_factor_off(email: Email) -> None:
    """For who lost the authenticator and the recovery codes: make sure that it is them."""

    async def go(connection: Connection) -> bool:
        person = await found(connection, email)
        detail = {"person": str(person["id"]), "email": person["email"]}
        await audit.record(connection, "second-factor.off", Actor.operator(person["organisation"]), detail=detail)
        return await second_factor.turn_off(connection, person["organisation"], person["id"])

    print("it is off now" if run(go) else "it was off")


async def found(connection: Connection, email: str) -> accounts.Person:
    person = await accounts.by_email(connection, email)
    if person is None:
        stop(f"{email} has no account")
    return person


def told(found_keys: list[Key]) -> None:
    for key in found_keys:
        print(f"{key.kid}  {key.state:8}  since {key.since:%F %R} UTC")


def new_password(file: Path | None, email: str) -> str:
    password = asked() if file is None and sys.stdin.isatty() else read(file)
    try:
        valid("the password", pages.NewPassword, password)
        accounts.check_new_password(password, email)
    except BadRequestError as error:
        stop(f"the password {error.wrong[0].reason}")
    return password


def asked() -> str:
    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        stop("that was another one")
    return password


def read(file: Path | None) -> str:
    try:
        lines = (sys.stdin.read() if file in {None, Path("-")} else Path(str(file)).read_text()).splitlines()
    except OSError as error:
        stop(f"{file}: {error.strerror}")
    if not lines:
        stop("there is no password")
    return lines[0]


def valid(what: str, kind: Any, value: str) -> str:
    """The value as the API would take it; else say why not, and exit with 2."""
    try:
        return str(TypeAdapter(kind).validate_python(value))
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        sys.stderr.write(f"brigade: {what}: {reason}\n")
        raise SystemExit(2) from None


def run(work: Callable[[Connection], Awaitable[T]]) -> T:
    """In one transaction; what is away is one line on stderr."""

    async def connected() -> T:
        url = load(DatabaseSettings).database_url.get_secret_value()
        async with await AsyncConnection.connect(
            url, row_factory=dict_row, application_name="brigade-users-command"
        ) as connection:
            return await work(connection)

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout has what was asked for
    try:
        return asyncio.run(connected())
    except psycopg.errors.UndefinedTable:
        stop("the database has no tables of users yet: `brigade users migrate` makes them")
    except psycopg.OperationalError as error:
        stop(f"the database at BRIGADE_USERS_DATABASE_URL: {error}")
    except RedisError as error:
        stop(f"Redis at BRIGADE_USERS_REDIS_URL: {error}")
    except SealError as error:
        stop(str(error))


async def with_sessions(work: Callable[[Sessions], Awaitable[T]]) -> T:
    settings = load(CommandSettings)
    redis = redis_of(settings)
    try:
        return await work(Sessions(redis, Sealer(settings.key)))
    finally:
        await redis.aclose()


def stop(reason: str) -> NoReturn:
    sys.exit(f"brigade: {reason}")  # exit code 1
