"""Names of sites and devices, a site's time zone, a device's site: users decides, and the pipeline's tables follow.

A statement is run before users is asked, and committed when users said yes: neither knows a name that the other does
not.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, LiteralString, NamedTuple
from zoneinfo import available_timezones

import msgspec
import psycopg

from gateway.database import Connection
from gateway.problems import BadQueryError, SiteInUseError, ZoneInUseError
from gateway.roles import PERMISSIONS, Permission

# Days that are counted already keep their zone, should a device be heard just now.
ADD_SITE: Final = """
INSERT INTO sites AS s (name, display_name, time_zone) VALUES (%(site)s, %(name)s, %(zone)s)
ON CONFLICT (name) DO UPDATE SET
    display_name = excluded.display_name,
    time_zone = CASE WHEN EXISTS (SELECT FROM devices d WHERE d.site_id = s.id)
                THEN s.time_zone ELSE excluded.time_zone END
"""

SET_SITE: Final = """
UPDATE sites s SET display_name = coalesce(%(name)s, s.display_name), time_zone = coalesce(%(zone)s, s.time_zone)
WHERE s.name = %(site)s
"""

ZONE: Final = """
SELECT s.time_zone FROM sites s WHERE s.name = %(site)s AND EXISTS (SELECT FROM devices d WHERE d.site_id = s.id)
"""

# Users knows zones by another list than the database that counts the days.
TRY_ZONE: Final = "SELECT now() AT TIME ZONE %(zone)s"

# A device that has a name is known before its first reading.
ADD_DEVICE: Final = """
INSERT INTO devices AS d (name, display_name, site_id)
SELECT %(device)s, %(name)s, s.id FROM sites s WHERE s.name = %(site)s
ON CONFLICT (name) DO UPDATE SET display_name = excluded.display_name WHERE d.site_id = excluded.site_id
"""

SET_DEVICE: Final = """
UPDATE devices d SET display_name = %(name)s FROM sites s
WHERE s.id = d.site_id AND d.name = %(device)s AND s.name = ANY(%(sites)s)
"""

OTHER_ZONE: Final = """
SELECT s.time_zone, n.time_zone AS wanted FROM devices d JOIN sites s ON s.id = d.site_id, sites n
WHERE d.name = %(device)s AND s.name = ANY(%(sites)s) AND n.name = %(to)s AND n.time_zone <> s.time_zone
"""

# As `brigade devices move` does it between sites of one time zone.
MOVE_DEVICE: Final = """
UPDATE devices d SET previous_site_id = d.site_id, site_id = n.id, moved_at = now() FROM sites s, sites n
WHERE s.id = d.site_id AND d.name = %(device)s AND s.name = ANY(%(sites)s) AND n.name = %(to)s AND n.id <> s.id
"""


BY_SITES: Final = frozenset({("PATCH", "/sites/{site}"), ("POST", "/credentials"), ("PATCH", "/credentials/{device}")})
"""Whose changes depend on the sites of who calls."""


class Body(msgspec.Struct):
    """What of a call's body matters here; users looks at the rest."""

    site: str | None = None
    device: str | None = None
    name: str | None = None
    time_zone: str | None = None


class Change(NamedTuple):
    query: LiteralString
    parameters: Mapping[str, object]


def changes(method: str, path: str, parts: Mapping[str, str], body: bytes, sites: Mapping[str, str]) -> list[Change]:
    """What a call changes here; `sites` are those of who calls. None where it changes nothing, or is none of ours."""
    if body and json.detect_encoding(body) != "utf-8":
        raise BadQueryError("body", "must be JSON in UTF-8")  # users would read it, where we cannot
    try:
        told = msgspec.json.decode(body, type=Body)
    except (msgspec.DecodeError, RecursionError):
        return []
    match method, path:
        case "POST", "/sites" if told.site and told.name and told.time_zone:
            return [Change(ADD_SITE, {"site": told.site, "name": told.name, "zone": told.time_zone})]
        case "PATCH", "/sites/{site}" if parts["site"] in sites and (told.name or told.time_zone):
            return [Change(SET_SITE, {"site": parts["site"], "name": told.name, "zone": told.time_zone})]
        case "POST", "/credentials" if told.site in sites and told.device and told.name:
            return [Change(ADD_DEVICE, {"site": told.site, "device": told.device, "name": told.name})]
        case "PATCH", "/credentials/{device}":
            return list(_of_device(parts["device"], told, sites))
        case _:
            return []


def _of_device(device: str, told: Body, sites: Mapping[str, str]) -> Iterator[Change]:
    whose = {"device": device, "sites": _where_devices_may_be_changed(sites)}
    if told.name is not None:
        yield Change(SET_DEVICE, {**whose, "name": told.name or None})
    if told.site in sites:
        yield Change(MOVE_DEVICE, {**whose, "to": told.site})


def _where_devices_may_be_changed(sites: Mapping[str, str]) -> list[str]:
    return [site for site, role in sites.items() if Permission.DEVICES_WRITE in PERMISSIONS.get(role, ())]


async def apply(connection: Connection, change: Change) -> None:
    """Part of the caller's transaction.

    `ZoneInUseError` where days would have to be counted again, `SiteInUseError` where a new site would come with what
    somebody else's devices measured.
    """
    if change.query is MOVE_DEVICE:
        await _must_keep_its_days(connection, change)
    if change.query is ADD_SITE:
        await _must_have_no_devices(connection, change)
    zone: Any = change.parameters.get("zone")
    if zone is not None:
        if zone not in available_timezones():  # not sent: the database would write it into its log
            raise BadQueryError("time_zone", "is no time zone such as Asia/Seoul")
        try:
            await connection.execute(TRY_ZONE, change.parameters)
        except psycopg.errors.InvalidParameterValue:
            raise BadQueryError(
                "time_zone", "is no zone that days can be counted in here; take a name such as America/Los_Angeles"
            ) from None
    if change.query is SET_SITE and zone is not None:
        row = await (await connection.execute(ZONE, change.parameters)).fetchone()
        if row is not None and row["time_zone"] != zone:
            command = f"brigade sites set {change.parameters['site']} --time-zone {zone}"
            raise ZoneInUseError(
                f"its days are counted in {row['time_zone']} already: `{command}` counts them again; then repeat this",
                fields={"time_zone": f"is {row['time_zone']}"},
            )
    await connection.execute(change.query, change.parameters)


async def _must_have_no_devices(connection: Connection, change: Change) -> None:
    site = change.parameters["site"]
    if await (await connection.execute(ZONE, change.parameters)).fetchone():
        raise SiteInUseError(
            f"devices of a site {site} have been heard already: whoever runs the server gives it an owner with"
            f" `brigade users create-owner EMAIL --site {site}`",
            fields={"site": "has devices"},
        )


async def _must_keep_its_days(connection: Connection, change: Change) -> None:
    row = await (await connection.execute(OTHER_ZONE, change.parameters)).fetchone()
    if row is not None:
        command = f"brigade devices move {change.parameters['device']} {change.parameters['to']}"
        raise ZoneInUseError(
            f"its days are counted in {row['time_zone']}, those of the other site in {row['wanted']}: `{command}`"
            " counts them again; then repeat this",
            fields={"site": f"has the time zone {row['wanted']}"},
        )
