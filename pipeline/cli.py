"""`brigade`, the command for everything a person does.

A sub-command's module is imported when it is called, so that `brigade --help` is quick.
"""

import sys
from importlib import import_module
from typing import Any, Final

import psycopg
import typer
from typer.core import TyperCommand, TyperGroup

COMMANDS: Final = {
    "simulate": ("pipeline.simulate", "Be a restaurant's sensors: send what they would to the MQTT broker."),
    "verify": ("pipeline.verify", "Compare what was sent with what is stored: nothing missing, nothing twice."),
    "dead-letters": ("pipeline.dead_letters", "The messages that could not be stored: list, show, replay."),
    "sites": ("pipeline.sites", "The restaurants: list, add, set name and time zone."),
    "devices": ("pipeline.devices", "The sensors: list, move to another site."),
    "topics": ("pipeline.topics", "The Kafka topics: create, check."),
    "migrate": ("pipeline.migrate", "Bring the database to the tables of this version."),
    "offsets": ("pipeline.offsets", "Where the database stands in each partition: show, reset."),
    "settings": ("pipeline.settings_page", "Every setting: its variable, its value now, what it means."),
}
"""The name, the module whose `app` it is, the line that `brigade --help` shows."""


class Lazy(TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands.update({name: TyperCommand(name, help=text) for name, (_, text) in COMMANDS.items()})

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in COMMANDS:
            self.commands[args[0]] = command(args[0])
        return super().resolve_command(ctx, args)


app = typer.Typer(cls=Lazy, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def brigade() -> None:
    """Restaurant sensors, from MQTT through Kafka into TimescaleDB: nothing lost, nothing twice.

    Settings are environment variables, BRIGADE_…: `brigade settings` shows them.

    Exit codes: 0 fine, 1 something is wrong, 2 the command or a setting cannot be right.
    """


def command(name: str) -> Any:
    module, text = COMMANDS[name]
    part: typer.Typer = import_module(module).app
    part._add_completion = False  # noqa: SLF001, only `brigade` itself offers it
    found = typer.main.get_command(part)
    found.name, found.help = name, found.help or text
    return found


def main() -> None:
    """Run the command; a database that is away or empty is one line on stderr, a bug is a traceback."""
    try:
        app(prog_name="brigade")
    except psycopg.OperationalError as error:
        sys.exit(f"brigade: the database at BRIGADE_DATABASE_URL: {error}")  # exit code 1
    except psycopg.errors.UndefinedTable:
        sys.exit("brigade: the database has no tables yet: `brigade migrate` makes them")


if __name__ == "__main__":
    main()
