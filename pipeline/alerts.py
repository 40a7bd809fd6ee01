"""What Alertmanager knows: alerts firing now, and silences for those that somebody works on."""

import getpass
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

import httpx
import typer

from pipeline.settings import AlertSettings, load

SEVERITIES: Final = ("critical", "warning", "info")
UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}
MATCHER: Final = re.compile(r'([A-Za-z_]\w*)(=~|!~|!=|=)"?(.*?)"?')

app = typer.Typer(help=__doc__, no_args_is_help=True)


@app.command("list")
def list_command(
    *, everything: Annotated[bool, typer.Option("--all", help="Those of severity info, too.")] = False
) -> None:
    """What fires now, the worst first, and what to read about it; exit code 1 if anything does, silenced or not."""
    firing = [alert for alert in ask("GET", "/alerts") if everything or alert["labels"].get("severity") != "info"]
    if not firing:
        print("nothing is firing")
        return
    rows = [("alert", "severity", "where", "since", "state", "what", "runbook")]
    for alert in sorted(firing, key=_worst_first):
        labels, notes = alert["labels"], alert["annotations"]
        where = " ".join(labels[name] for name in ("site", "part", "instance") if name in labels)
        row = (labels["alertname"], labels.get("severity", ""), where, _minute(alert["startsAt"]), _state(alert))
        rows.append((*row, notes.get("summary", ""), notes.get("runbook_url", "")))
    show(rows)
    raise typer.Exit(1)


@app.command("silences")
def silences_command() -> None:
    """The silences in force, who set them, and until when."""
    rows = [("id", "until", "by", "for", "why")]
    for silence in ask("GET", "/silences"):
        if silence["status"]["state"] != "expired":
            matchers = " ".join(_shown(matcher) for matcher in silence["matchers"])
            who = (silence["id"], _minute(silence["endsAt"]), silence["createdBy"])
            rows.append((*who, matchers, silence["comment"]))
    show(rows)


@app.command("silence")
def silence_command(
    matchers: Annotated[
        list[str], typer.Argument(help="BridgeDown, site=seoul, part!=worker, alertname=~Error.*: all hold.")
    ],
    why: Annotated[str, typer.Option(help="What others should know.")],
    hours: Annotated[str, typer.Option("--for", help="How long: 30m, 2h, 1d.")] = "2h",
) -> None:
    """Tell nobody of the alerts that match, for a while; print the silence's id."""
    now = datetime.now(UTC)
    wanted = {
        "matchers": [matcher_of(word) for word in matchers],
        "startsAt": now.isoformat(),
        "endsAt": (now + duration_of(hours)).isoformat(),
        "createdBy": getpass.getuser(),
        "comment": why,
    }
    print(ask("POST", "/silences", json=wanted)["silenceID"])


@app.command("unsilence")
def unsilence_command(silence: Annotated[str, typer.Argument(help="Its id.")]) -> None:
    """End a silence before its time."""
    ask("DELETE", f"/silence/{silence}")


def show(rows: Sequence[Sequence[str]]) -> None:
    """In columns as wide as they must be: nothing is cut off."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def matcher_of(word: str) -> dict[str, Any]:
    """As Alertmanager's API wants it; a bare word is an alert's name."""
    name, operator, value = found.groups() if (found := MATCHER.fullmatch(word)) else ("alertname", "=", word)
    return {"name": name, "value": value, "isEqual": not operator.startswith("!"), "isRegex": operator.endswith("~")}


def duration_of(text: str) -> timedelta:
    found = re.fullmatch(r"(\d+)([mhd])", text)
    if not found or int(found[1]) == 0:
        raise typer.BadParameter(f"{text} is no time such as 30m, 2h or 1d", param_hint="--for")
    return timedelta(**{UNITS[found[2]]: int(found[1])})


def ask(method: str, path: str, **more: Any) -> Any:
    """Alertmanager's answer; where there is none, a line that says so, and exit code 1."""
    url = load(AlertSettings).alertmanager_url
    try:
        answer = httpx.request(method, f"{url}/api/v2{path}", timeout=5, trust_env=False, **more)
    except httpx.HTTPError as error:
        raise SystemExit(f"brigade: Alertmanager at {url} (BRIGADE_ALERTMANAGER_URL): {error}") from error
    if answer.is_error:
        raise SystemExit(f"brigade: Alertmanager refused: {answer.status_code} {answer.text.strip()}")
    return answer.json() if answer.content else None


def _worst_first(alert: dict[str, Any]) -> tuple[int, str]:
    severity = alert["labels"].get("severity")
    return SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES), alert["startsAt"]


def _state(alert: dict[str, Any]) -> str:
    status = alert["status"]
    if status["silencedBy"]:
        return "silenced"
    return "explained" if status["inhibitedBy"] else "told"


def _minute(moment: str) -> str:
    return f"{datetime.fromisoformat(moment).astimezone(UTC):%Y-%m-%d %H:%M}Z"


def _shown(matcher: dict[str, Any]) -> str:
    operator = ("=" if matcher["isEqual"] else "!") + ("~" if matcher["isRegex"] else "" if matcher["isEqual"] else "=")
    return f"{matcher['name']}{operator}{matcher['value']}"
