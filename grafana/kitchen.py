"""The restaurants as those who work there see them: all of them, one of them, one of its devices."""

from typing import Final

from grafana import kitchen_sql as sql
from grafana.boards import Board, Folder, Row
from grafana.choices import DEVICE, DEVICES, METRIC, SITE, SITES_BOARD, UP, annotations, at_the_top, to_board
from grafana.panels import HALF, QUARTER, THIRD, WIDE, Column, Limits, Panel, Unit, Words, bars, lines, number, rows
from grafana.queries import Rows, Series

STATES: Final[Words] = {
    "online": ("online", "green"),
    "silent": ("silent", "orange"),
    "offline": ("offline", "red"),
}
LETTERS: Final[Words] = {"mended": ("mended", "green"), "open": ("open", "orange")}
DOOR: Final[Words] = {"open": ("open", "orange"), "closed": ("closed", "green")}
TABLE: Final[Words] = {"taken": ("taken", "blue"), "free": ("free", "text")}

A_SITE: Final = to_board("This restaurant", "kitchen-site", site="${__data.fields.site}")
A_DEVICE: Final = to_board("This device", "kitchen-device", site="${site}", device="${__data.fields.id}")
ITS_SITE: Final = at_the_top("The restaurant", "kitchen-site", "All devices of this restaurant")

ATTENTION: Final = Limits(orange=1, red=5)


def _count(title: str, text: str, what: str, *, where: str, limits: Limits | None = None) -> Panel:
    return number(title, text, Rows(sql.of_devices_now(what, where)), unit=Unit.COUNT, limits=limits)


def _numbers(where: str) -> tuple[Panel, ...]:
    return (
        _count("Devices", "How many devices there are.", "count(*)", where=where),
        _count(
            "Heard from",
            "Devices that sent something in the last 15 minutes.",
            "count(*) FILTER (WHERE heard)",
            where=where,
        ),
        _count(
            "Silent",
            "Devices that sent nothing in the last 15 minutes. Look at their power and their network.",
            "count(*) FILTER (WHERE NOT heard)",
            where=where,
            limits=ATTENTION,
        ),
        _count(
            "Out of bounds",
            "Measurements whose newest value is too high or too low, say a fridge that is too warm.",
            "coalesce(sum(outside), 0)",
            where=where,
            limits=Limits(red=1),
        ),
        _count(
            "Doors open",
            "Doors of fridges and freezers that are open now.",
            "count(*) FILTER (WHERE door_open)",
            where=where,
            limits=Limits(orange=1),
        ),
        _count("Tables taken", "Tables with guests now.", "count(*) FILTER (WHERE occupied)", where=where),
    )


def sites() -> Board:
    return Board(
        uid="kitchen-sites",
        folder=Folder.KITCHEN,
        title="Restaurants",
        text="All restaurants at a glance. Click on one to see its devices.",
        links=(UP,),
        annotations=annotations(on=False),
        span="24h",
        refresh="1m",
        rows=(
            Row("Now", _numbers("true")),
            Row(
                "Restaurants",
                (
                    rows(
                        "Restaurants",
                        "One line each, those that need somebody first. Readings, refused and late are of the "
                        "last 24 hours.",
                        Rows(sql.SITES),
                        Column(name="site", hidden=True),
                        Column(name="restaurant", link=A_SITE),
                        Column(name="silent", limits=ATTENTION),
                        Column(name="outside", limits=Limits(red=1)),
                        Column(name="refused", limits=Limits(orange=1, red=100)),
                        Column(name="newest", unit=Unit.AGO),
                        height=16,
                    ),
                ),
            ),
        ),
    )


def _accounts(where: str) -> Panel:
    return lines(
        "Readings received",
        "By hour of receipt; over more than two weeks by day. Late ones are stored ones that came after their minute "
        "was computed. Refused ones could not be understood.",
        Series(sql.accounts(where)),
        unit=Unit.COUNT,
        bars=True,
        legend=("sum",),
    )


def site() -> Board:
    return Board(
        uid="kitchen-site",
        folder=Folder.KITCHEN,
        title="A restaurant",
        text="Temperatures, doors, tables and silent devices of one restaurant. Choose the restaurant above; "
        "click on a device to see it alone.",
        links=(SITES_BOARD, UP),
        variables=(SITE, DEVICES),
        annotations=annotations(on=False),
        span="24h",
        refresh="1m",
        rows=(
            Row("Now", _numbers(sql.OF_SITE)),
            Row(
                "Devices",
                (
                    rows(
                        "Devices now",
                        "Each device's newest values, those that need somebody first. `outside` counts "
                        "measurements out of their bounds.",
                        Rows(sql.DEVICES),
                        Column(name="id", hidden=True),
                        Column(name="device", link=A_DEVICE),
                        Column(name="state", words=STATES),
                        Column(name="heard", unit=Unit.AGO),
                        Column(name="temperature", unit=Unit.CELSIUS, decimals=1),
                        Column(name="outside", limits=Limits(red=1)),
                        Column(name="door", words=DOOR),
                        Column(name="table", words=TABLE),
                    ),
                ),
            ),
            Row(
                "The kitchen",
                (
                    lines(
                        "Temperatures",
                        "Averages of each step. A step is some minutes; over more than a day an hour, over "
                        "more than two weeks a day of the restaurant.",
                        Series(sql.TEMPERATURES),
                        unit=Unit.CELSIUS,
                        width=WIDE,
                        lowest=None,
                        points=300,
                        interval="1m",
                        legend=("lastNotNull", "min", "max"),
                    ),
                    lines(
                        "Doors, over time",
                        "Share of the time that each door was open. A door that is never closed wants a look.",
                        Series(sql.DOORS),
                        unit=Unit.SHARE,
                        highest=1,
                        points=300,
                        interval="1m",
                        limits=Limits(orange=0.5, red=0.9),
                        legend=("mean", "max"),
                    ),
                    rows(
                        "Doors, in all",
                        "How long each door was open in the time that is shown, by whole hours, and as a share of it.",
                        Rows(sql.DOORS_IN_ALL),
                        Column(name="id", hidden=True),
                        Column(name="device", link=A_DEVICE),
                        Column(name="open", unit=Unit.SECONDS),
                        Column(name="share", unit=Unit.SHARE, limits=Limits(orange=0.2, red=0.5)),
                        width=HALF,
                        height=8,
                    ),
                    lines(
                        "Humidity",
                        "Averages of each step, in per cent.",
                        Series(sql.HUMIDITY),
                        unit=Unit.ANY,
                        width=WIDE,
                        points=300,
                        interval="1m",
                        highest=100,
                        legend=("lastNotNull", "min", "max"),
                    ),
                ),
            ),
            Row(
                "The tables",
                (
                    lines(
                        "Tables, over time",
                        "How many tables had guests, on the average of each step, and how many tables were heard from.",
                        Series(sql.TABLES),
                        unit=Unit.COUNT,
                        points=300,
                        interval="1m",
                        legend=("mean", "max"),
                    ),
                    bars(
                        "Tables taken by hour of the day",
                        "By the restaurant's own clock, of the last 14 days that are shown at the most.",
                        Rows(sql.TABLES_BY_HOUR),
                        by="hour",
                        unit=Unit.SHARE,
                        highest=1,
                    ),
                ),
            ),
            Row(
                "What did not arrive as it should",
                (
                    rows(
                        "Silences",
                        "The longest time without a reading from each device, how many silences were longer "
                        "than 15 minutes, and how "
                        "many hours (over more than two weeks: days) had less than 80 % of the device's fullest.",
                        Rows(sql.GAPS),
                        Column(name="id", hidden=True),
                        Column(name="device", link=A_DEVICE),
                        Column(name="longest", unit=Unit.SECONDS, limits=Limits(orange=900, red=7200)),
                        Column(name="silences", limits=Limits(orange=1)),
                        Column(name="incomplete", limits=Limits(orange=1)),
                        Column(name="newest", unit=Unit.AGO),
                        width=HALF,
                        height=8,
                    ),
                    _accounts(sql.CHOSEN),
                    rows(
                        "Refused, by reason",
                        "Why readings were refused. Each is kept, and can be sent again once its cause is mended.",
                        Rows(sql.REASONS),
                        Column(name="refused", limits=Limits(orange=1, red=100)),
                        Column(name="newest", unit=Unit.AGO),
                        width=THIRD,
                        height=8,
                        none="nothing was refused",
                    ),
                    rows(
                        "Refused readings",
                        "The newest hundred of the time that is shown: from which device, and why.",
                        Rows(sql.DEAD_LETTERS),
                        Column(name="size", unit=Unit.BYTES),
                        Column(name="state", words=LETTERS),
                        width=WIDE - THIRD,
                        height=8,
                        none="nothing was refused",
                    ),
                ),
            ),
        ),
    )


def device() -> Board:
    return Board(
        uid="kitchen-device",
        folder=Folder.KITCHEN,
        title="A device",
        text="One measurement of one device, as close as you like, and what did not arrive.",
        links=(ITS_SITE, SITES_BOARD),
        variables=(SITE, DEVICE, METRIC),
        annotations=annotations(on=False),
        span="24h",
        refresh="1m",
        rows=(
            Row(
                "$metric of $device",
                (
                    number(
                        "Newest value",
                        "In the measurement's own unit, the last word of its name.",
                        Rows(sql.newest("r.value")),
                        unit=Unit.ANY,
                        width=QUARTER,
                        decimals=1,
                    ),
                    number(
                        "Came",
                        "How long ago the newest value was received.",
                        Rows(sql.newest("extract(epoch FROM now() - r.received_at)::float8")),
                        unit=Unit.SECONDS,
                        width=QUARTER,
                        limits=Limits(orange=900, red=7200),
                        decimals=0,
                    ),
                    number(
                        "Lower bound",
                        "What is below it counts as out of bounds; none where it is empty.",
                        Rows(sql.newest("m.lower_bound")),
                        unit=Unit.ANY,
                        width=QUARTER,
                        none="none",
                    ),
                    number(
                        "Upper bound",
                        "What is above it counts as out of bounds; none where it is empty.",
                        Rows(sql.newest("m.upper_bound")),
                        unit=Unit.ANY,
                        width=QUARTER,
                        none="none",
                    ),
                    lines(
                        "$metric",
                        "Up to three hours every reading; then average, lowest and highest of each minute, "
                        "over two days of each hour, "
                        "over two months of each day of the restaurant.",
                        Series(sql.VALUES),
                        unit=Unit.ANY,
                        width=WIDE,
                        lowest=None,
                        band=("lowest", "highest"),
                        legend=("lastNotNull", "min", "max"),
                    ),
                    bars(
                        "Day by day",
                        "Lowest, average and highest of each day, counted from midnight to midnight where the "
                        "restaurant is.",
                        Rows(sql.DAYS),
                        by="day",
                        unit=Unit.ANY,
                    ),
                    lines(
                        "Readings",
                        "How many readings each minute, hour or day has. Where bars are missing or short, "
                        "readings are.",
                        Series(sql.COUNTS),
                        unit=Unit.COUNT,
                        bars=True,
                        legend=("sum", "min"),
                    ),
                ),
            ),
            Row(
                "What did not arrive as it should",
                (
                    rows(
                        "Silences",
                        "From one reading to the next, where that took more than two minutes; the longest fifty.",
                        Rows(sql.SILENCES),
                        Column(name="silence", unit=Unit.SECONDS, limits=Limits(orange=900, red=7200)),
                        width=HALF,
                        height=8,
                        none="no silence",
                    ),
                    _accounts(sql.THE_DEVICE),
                    rows(
                        "Refused readings",
                        "The newest hundred of this device in the time that is shown, and why.",
                        Rows(sql.DEAD_LETTERS_OF_DEVICE),
                        Column(name="size", unit=Unit.BYTES),
                        Column(name="state", words=LETTERS),
                        height=8,
                        none="nothing was refused",
                    ),
                ),
            ),
        ),
    )


BOARDS: Final = (sites(), site(), device())
