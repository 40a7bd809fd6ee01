"""`brigade`, the command for everything a person does.

A sub-command's module is imported when it is called, so that `brigade --help` is quick. Other services have theirs in
the entry points `brigade.commands`.
"""

import ast
import sys
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import psycopg
import typer
from typer.core import TyperCommand, TyperGroup

COMMANDS: Final = {
    "status": ("pipeline.status", "What is up, how far behind it is, what is wrong and what to do about it."),
    "simulate": ("pipeline.simulate", "Be a restaurant's sensors: send what they would to the MQTT broker."),
    "verify": ("pipeline.verify", "Compare what was sent with what is stored: nothing missing, nothing twice."),
    "dead-letters": ("pipeline.dead_letters", "The messages that could not be stored: list, show, replay."),
    "sites": ("pipeline.sites", "The restaurants: list, add, set name and time zone."),
    "devices": ("pipeline.devices", "The sensors: list, move to another site."),
    "topics": ("pipeline.topics", "The Kafka topics: create, check."),
    "install": ("pipeline.install", "What the parts need before they start: database, topics, broker; wait for them."),
    "secrets": ("pipeline.passwords", "The passwords of an installation, in files: create."),
    "migrate": ("pipeline.migrate", "Bring the database to the tables of this version."),
    "offsets": ("pipeline.offsets", "Where the database stands in each partition: show, reset."),
    "alerts": ("pipeline.alerts", "What fires now, and silences: list, silence, silences, unsilence."),
    "settings": ("pipeline.settings_page", "Every setting: its variable, its value now, what it means."),
}
"""The name, the module whose `app` it is, the line that `brigade --help` shows."""

GROUP: Final = "brigade.commands"


class Lazy(TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.known = COMMANDS | {entry.name: (entry.module, first_line(entry)) for entry in entry_points(group=GROUP)}
        self.commands.update({name: TyperCommand(name, help=text) for name, (_, text) in self.known.items()})

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in self.known:
            self.commands[args[0]] = command(args[0], *self.known[args[0]])
        return super().resolve_command(ctx, args)


app = typer.Typer(cls=Lazy, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def brigade() -> None:
    """Restaurant sensors, from MQTT through Kafka into TimescaleDB: nothing lost, nothing twice.

    Settings are environment variables, BRIGADE_…: `brigade settings` shows them.

    Exit codes: 0 fine, 1 something is wrong, 2 the command or a setting cannot be right.
    """


def first_line(entry: EntryPoint) -> str:
    """Of the module's docstring, without importing it."""
    spec = find_spec(entry.module)
    source = Path(spec.origin).read_text() if spec and spec.origin else ""
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def command(name: str, module: str, text: str) -> Any:
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
