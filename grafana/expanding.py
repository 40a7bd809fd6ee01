"""What Grafana does to a query before it is sent: variables by the browser, then the data source's macros.

Grafana is not here, so this is written after its documentation and after what its code is seen to do, to the letter
where that matters: a macro's arguments end at the first `)`, an unknown macro is an error, an unknown variable stays.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

ROUNDED: Final = (
    # up to how many milliseconds an interval becomes how many
    (1_500, 1_000), (3_500, 2_000), (7_500, 5_000), (12_500, 10_000), (17_500, 15_000), (25_000, 20_000),
    (45_000, 30_000), (90_000, 60_000), (210_000, 120_000), (450_000, 300_000), (750_000, 600_000),
    (1_050_000, 900_000), (1_500_000, 1_200_000), (2_700_000, 1_800_000), (5_400_000, 3_600_000),
    (9_000_000, 7_200_000), (16_200_000, 10_800_000), (32_400_000, 21_600_000), (86_400_000, 43_200_000),
    (604_800_000, 86_400_000), (1_814_400_000, 604_800_000), (3_628_800_000, 2_592_000_000),
)  # fmt: skip
YEAR_MS: Final = 31_536_000_000
UNITS_MS: Final = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1))
SCRAPE_MS: Final = 15_000
POINTS: Final = 1_000
"""As wide as a panel is in pixels, unless it says otherwise."""

VARIABLE: Final = re.compile(r"\$(\w+)|\[\[(\w+?)(?::(\w+))?\]\]|\$\{(\w+)(?:\.[^:}]+)?(?::([^}]+))?\}")
MACRO: Final = re.compile(r"\$(\w+)\(([^)]*)\)")


class ExpandingError(Exception):
    """Grafana would show an error in the panel's place."""


@dataclass(frozen=True)
class Chosen:
    """What a person chose of a variable: one value, or several where it allows that."""

    value: str | Sequence[str]
    multi: bool = False


@dataclass(frozen=True)
class Shown:
    """The time that a dashboard shows, the choices, and what the panel says of its steps."""

    start: datetime
    end: datetime
    chosen: Mapping[str, Chosen] = field(default_factory=dict)
    points: int = POINTS
    least_ms: int = 1_000

    @property
    def range_ms(self) -> int:
        return int((self.end - self.start) / timedelta(milliseconds=1))

    @property
    def interval_ms(self) -> int:
        return max(rounded(self.range_ms / self.points), self.least_ms)

    def built_in(self) -> dict[str, str]:
        return {
            "__from": str(epoch_ms(self.start)),
            "__to": str(epoch_ms(self.end)),
            "__interval": duration(self.interval_ms),
            "__interval_ms": str(self.interval_ms),
        }


def rounded(milliseconds: float) -> int:
    return next((to for limit, to in ROUNDED if milliseconds <= limit), YEAR_MS)


def duration(milliseconds: int) -> str:
    """In the largest unit that fits: 300000 is 5m."""
    return next(f"{milliseconds // size}{unit}" for unit, size in UNITS_MS if milliseconds >= size)


def milliseconds(text: str) -> int:
    match = re.fullmatch(r"(\d+)(ms|[smhd])", text)
    if not match:
        raise ExpandingError(f"error parsing interval {text}")
    return int(match[1]) * dict(UNITS_MS)[match[2]]


def epoch_ms(moment: datetime) -> int:
    return int((moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(milliseconds=1))


# SQL ----------------------------------------------------------------------------------------------------


def sql(text: str, shown: Shown) -> str:
    return _macros(_variables(text, shown.built_in(), shown.chosen, _sql_default), shown)


def _sql_default(chosen: Chosen) -> str:
    if isinstance(chosen.value, str):
        return _quoted(chosen.value) if chosen.multi else chosen.value.replace("'", "''")
    return ",".join(map(_quoted, chosen.value))


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _macros(text: str, shown: Shown) -> str:
    start, end = (_quoted(_rfc3339(moment)) for moment in (shown.start, shown.end))

    def group(column: str, interval: str) -> str:
        return f"time_bucket('{milliseconds(interval.strip(chr(39))) / 1000:.3f}s',{column})"

    macros: Mapping[str, Callable[..., str]] = {
        "__time": lambda column: f'{column} AS "time"',
        "__timeEpoch": lambda column: f'extract(epoch from {column}) as "time"',
        "__timeFilter": lambda column: f"{column} BETWEEN {start} AND {end}",
        "__timeFrom": lambda _="": start,
        "__timeTo": lambda _="": end,
        "__timeGroup": group,
        "__timeGroupAlias": lambda column, interval: f'{group(column, interval)} AS "time"',
    }

    def expanded(match: re.Match[str]) -> str:
        name, arguments = match[1], [argument.strip(" ") for argument in match[2].split(",")]
        if name not in macros:
            raise ExpandingError(f"unknown macro {name!r}")
        return macros[name](*arguments)

    return MACRO.sub(expanded, text)


def _rfc3339(moment: datetime) -> str:
    text = moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f").rstrip("0").rstrip(".")
    return f"{text}Z"


# PromQL -------------------------------------------------------------------------------------------------


def promql(text: str, shown: Shown) -> str:
    step = max(shown.interval_ms, SCRAPE_MS)
    built_in = shown.built_in() | {
        "__interval": duration(step),
        "__interval_ms": str(step),
        "__rate_interval": f"{max(step + SCRAPE_MS, 4 * SCRAPE_MS) // 1000}s",
        "__range": f"{shown.range_ms // 1000}s",
        "__range_s": str(shown.range_ms // 1000),
        "__range_ms": str(shown.range_ms),
    }
    return _variables(text, built_in, shown.chosen, _promql_default)


def _promql_default(chosen: Chosen) -> str:
    if isinstance(chosen.value, str) and not chosen.multi:
        return chosen.value.replace("\\", "\\\\").replace("'", "\\'")
    values = [chosen.value] if isinstance(chosen.value, str) else chosen.value
    escaped = [re.sub(r"([\\$^*{}\[\]'+?.()|])", r"\\\\\1", value) for value in values]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


# Variables ----------------------------------------------------------------------------------------------


def _variables(
    text: str, built_in: Mapping[str, str], chosen: Mapping[str, Chosen], default: Callable[[Chosen], str]
) -> str:
    def replaced(match: re.Match[str]) -> str:
        name, form = match[1] or match[2] or match[4], match[3] or match[5]
        if name in built_in:
            return built_in[name]
        if name not in chosen:
            return match[0]
        return formatted(chosen[name], form) if form else default(chosen[name])

    return VARIABLE.sub(replaced, text)


def formatted(chosen: Chosen, form: str) -> str:
    """As `${name:form}` asks."""
    values = [chosen.value] if isinstance(chosen.value, str) else list(chosen.value)
    match form:
        case "sqlstring" | "singlequote":
            return ",".join(map(_quoted, values))
        case "csv" | "raw":
            return ",".join(values)
        case "pipe":
            return "|".join(values)
        case "regex":
            escaped = [re.sub(r"([\\^$.*+?()\[\]{}|/-])", r"\\\1", value) for value in values]
            return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"
        case _:
            raise ExpandingError(f"unknown format {form!r}")
