"""`brigade devices`: the sensors, and which site each is at."""

import sys
from typing import Annotated, Final

import typer

from pipeline.settings import CommandSettings, load
from pipeline.sites import HOLD, connect, count_days_again, found, partitions_of, show

LIST: Final = """
SELECT d.name, s.name, date_trunc('second', d.created_at), coalesce(d.display_name, '')
FROM devices d JOIN sites s ON s.id = d.site_id
WHERE %(site)s::text IS NULL OR s.name = %(site)s
ORDER BY s.name, d.name
"""

FIND: Final = """
SELECT d.id, d.site_id, s.time_zone FROM devices d JOIN sites s ON s.id = d.site_id WHERE d.name = %s FOR UPDATE OF d
"""
FIND_SITE: Final = "SELECT id, time_zone FROM sites WHERE name = %s FOR SHARE"
MOVE: Final = """
UPDATE devices SET previous_site_id = site_id, site_id = %s, moved_at = now() WHERE id = %s
"""

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_devices(site: Annotated[str | None, typer.Option(help="Only of this site.")] = None) -> None:
    """Every device with its site and when it was first heard."""
    with connect(load(CommandSettings)) as connection:
        show(("device", "site", "since", "name"), connection.execute(LIST, {"site": site}))


@app.command("move")
def move(
    device: Annotated[str, typer.Argument(help="As in the MQTT topic.")],
    site: Annotated[str, typer.Argument(help="Where it is now.")],
) -> None:
    """Say that a device is at another site now; what it queued under the old topic is still welcome."""
    settings = load(CommandSettings)
    with connect(settings) as connection:
        number, old, old_zone = found(
            connection, FIND, device, f"no device {device}: `brigade devices list` shows them"
        )
        new, zone = found(connection, FIND_SITE, site, f"no site {site}: `brigade sites add {site}` makes it")
        if new == old:
            sys.exit(f"brigade: {device} is at {site} already")
        partitions = partitions_of(settings) if zone != old_zone else 0
        connection.execute(HOLD)
        connection.execute(MOVE, (new, number))
        if zone != old_zone:
            count_days_again(connection, [(number, device)], zone, partitions=partitions)
    print(f"{device} is at {site} now")
