"""The database and the login roles of this instance; what a service may do is the migrations' business."""

import psycopg
from psycopg import sql

from deploy.local.layout import Instance, Passwords, database_url

MEMBERSHIPS = {"brigade_worker": "brigade_ingest", "brigade_api": "brigade_gateway"}

ROLES = {  # login role: what it may do beside logging in
    "brigade": "CREATEROLE",  # owns the tables and runs the migrations, which make the services' roles
    "brigade_worker": "",
    "brigade_api": "",
}


def create(instance: Instance) -> None:
    """Make roles and database where they are missing."""
    passwords = Passwords.of(instance)
    with psycopg.connect(database_url(instance, "postgres", "postgres"), autocommit=True) as connection:
        for role, more in ROLES.items():
            if not _exists(connection, "SELECT FROM pg_roles WHERE rolname = %s", role):
                create_role = sql.SQL("CREATE ROLE {} LOGIN {} PASSWORD {}")
                connection.execute(
                    create_role.format(sql.Identifier(role), sql.SQL(more), sql.Literal(getattr(passwords, role)))
                )
        if not _exists(connection, "SELECT FROM pg_database WHERE datname = %s", "brigade"):
            connection.execute("CREATE DATABASE brigade OWNER brigade")
    with psycopg.connect(database_url(instance, "postgres"), autocommit=True) as connection:
        connection.execute("SET client_min_messages = warning")
        connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")


def grant(instance: Instance) -> None:
    """Put the login roles into the services' roles, which the migrations made."""
    with psycopg.connect(database_url(instance, "postgres"), autocommit=True) as connection:
        for login, role in MEMBERSHIPS.items():
            connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), sql.Identifier(login)))


def _exists(connection: psycopg.Connection, query: str, name: str) -> bool:
    return connection.execute(query.encode(), (name,)).fetchone() is not None
