"""How the things of a restaurant behave. Pure: seeded, and the only clock is the one given.

A thing's `step(now)` lives the time since the last step and says what its sensor reads, `now` in seconds since 1970.
"""

import math
from collections.abc import Callable, Iterator
from random import Random
from typing import Final, Protocol

Values = dict[str, float | bool]

ROOM_C: Final = 22.0
LONGEST_SLICE: Final = 10.0
MOST_SLICES: Final = 60
"""Time is lived in slices of ten seconds; after a gap of more than ten minutes, the last ten only."""
LUNCH: Final = (11.5, 14.5)
DINNER: Final = (18.0, 22.5)


class Thing(Protocol):
    def step(self, now: float) -> Values: ...


class Hours:
    """The restaurant's day by its own clock, `utc_offset` seconds ahead of UTC."""

    def __init__(self, utc_offset: float = 0) -> None:
        self._utc_offset = utc_offset

    def busy(self, now: float) -> float:
        """0 closed, 0.3 between services, 1 at lunch and dinner."""
        hour = (now + self._utc_offset) % 86_400 / 3600
        if LUNCH[0] <= hour < LUNCH[1] or DINNER[0] <= hour < DINNER[1]:
            return 1.0
        return 0.3 if 9 <= hour < 23.5 else 0.0


class Elapsed:
    """The slices of time between two steps."""

    def __init__(self) -> None:
        self._last: float | None = None

    def slices(self, now: float) -> Iterator[float]:
        passed = 0.0 if self._last is None else max(0.0, now - self._last)
        self._last = now
        count = min(MOST_SLICES, math.ceil(passed / LONGEST_SLICE))
        for _ in range(count):
            yield min(LONGEST_SLICE, passed / count)


class Door:
    """Opened `per_hour` times in a busy hour, for some seconds each time; now and then forgotten open."""

    def __init__(self, random: Random, hours: Hours, per_hour: float, seconds: float) -> None:
        self._random, self._hours = random, hours
        self._per_hour, self._seconds = per_hour, seconds
        self._elapsed = Elapsed()
        self._closes_in = 0.0
        self.openings = 0

    @property
    def is_open(self) -> bool:
        return self._closes_in > 0

    def live(self, seconds: float, now: float) -> None:
        if self.is_open:
            self._closes_in = max(0.0, self._closes_in - seconds)
        elif self._random.random() < self._per_hour * self._hours.busy(now) * seconds / 3600:
            forgotten = 20 if self._random.random() < 0.02 else 1
            self._closes_in = forgotten * self._random.uniform(0.4, 1.6) * self._seconds
            self.openings += 1

    def step(self, now: float) -> Values:
        for seconds in self._elapsed.slices(now):
            self.live(seconds, now)
        return {"door_open": self.is_open, "openings_count": self.openings}


class Fridge:
    """A compressor between two temperatures; an open door lets the kitchen in."""

    def __init__(self, random: Random, hours: Hours) -> None:
        self._random = random
        self._elapsed = Elapsed()
        self._door = Door(random, hours, per_hour=25, seconds=15)
        self._temperature = random.uniform(2.5, 5.0)
        self._humidity = random.uniform(50, 65)
        self._compressor = random.random() < 0.4

    def step(self, now: float) -> Values:
        for seconds in self._elapsed.slices(now):
            self._live(seconds, now)
        return {
            "temperature_c": round(self._temperature + self._random.gauss(0, 0.04), 2),
            "humidity_pct": round(min(100.0, max(20.0, self._humidity + self._random.gauss(0, 0.5))), 1),
            "door_open": self._door.is_open,
        }

    def _live(self, seconds: float, now: float) -> None:
        self._door.live(seconds, now)
        if self._temperature > 4.8:
            self._compressor = True
        elif self._temperature < 2.6:
            self._compressor = False
        self._temperature = toward(self._temperature, ROOM_C, seconds / (900 if self._door.is_open else 18_000))
        if self._compressor:
            self._temperature = toward(self._temperature, -8.0, seconds / 3_000)
        self._humidity = toward(self._humidity, 85 if self._door.is_open else 55, seconds / 600)


class Freezer:
    """As a fridge, far below zero; every six to ten hours its defrost heater runs for some minutes."""

    def __init__(self, random: Random, hours: Hours) -> None:
        self._random = random
        self._elapsed = Elapsed()
        self._door = Door(random, hours, per_hour=6, seconds=20)
        self._temperature = random.uniform(-21.0, -18.5)
        self._compressor = True
        self._defrost_in = random.uniform(0, 8 * 3600)
        self._defrost_for = 0.0

    def step(self, now: float) -> Values:
        for seconds in self._elapsed.slices(now):
            self._live(seconds, now)
        power = 450.0 if self._defrost_for > 0 else 180.0 if self._compressor else 6.0
        return {
            "temperature_c": round(self._temperature + self._random.gauss(0, 0.05), 2),
            "defrost_active": self._defrost_for > 0,
            "power_w": round(power * self._random.uniform(0.97, 1.03), 1),
        }

    def _live(self, seconds: float, now: float) -> None:
        self._door.live(seconds, now)
        self._defrost_in -= seconds
        self._defrost_for -= seconds
        if self._defrost_in < 0:
            self._defrost_in = self._random.uniform(6, 10) * 3600
            self._defrost_for = self._random.uniform(8, 15) * 60
        if self._temperature > -18.5:
            self._compressor = True
        elif self._temperature < -21.0:
            self._compressor = False
        self._temperature = toward(self._temperature, ROOM_C, seconds / (2_500 if self._door.is_open else 40_000))
        if self._defrost_for > 0:
            self._temperature = toward(self._temperature, -6.0, seconds / 1_200)
        elif self._compressor:
            self._temperature = toward(self._temperature, -34.0, seconds / 4_000)


class Oven:
    """Heated for the services, by what is being baked; a thermostat swings around the set point."""

    def __init__(self, random: Random, hours: Hours) -> None:
        self._random, self._hours = random, hours
        self._elapsed = Elapsed()
        self._temperature = ROOM_C
        self._setpoint = 0.0
        self._heating = False

    def step(self, now: float) -> Values:
        for seconds in self._elapsed.slices(now):
            self._live(seconds, now)
        return {
            "temperature_c": round(self._temperature + self._random.gauss(0, 0.4), 1),
            "setpoint_c": self._setpoint,
            "heating_active": self._heating,
        }

    def _live(self, seconds: float, now: float) -> None:
        in_service = self._hours.busy(now) >= 1
        if not in_service:
            self._setpoint = 0.0
        elif not self._setpoint or self._random.random() < seconds / 2_400:
            self._setpoint = float(self._random.choice((160, 180, 200, 220, 250)))
        if self._temperature < self._setpoint - 4:
            self._heating = True
        elif self._temperature > self._setpoint + 4:
            self._heating = False
        if self._heating:
            self._temperature = toward(self._temperature, 330.0, seconds / 900)
        else:
            self._temperature = toward(self._temperature, ROOM_C, seconds / 3_600)


class Table:
    """Guests come in groups, stay for a while, and call a waiter now and then."""

    def __init__(self, random: Random, hours: Hours) -> None:
        self._random, self._hours = random, hours
        self._elapsed = Elapsed()
        self._seats = random.choice((2, 2, 4, 4, 6, 8))
        self._guests = 0
        self._leave_in = 0.0

    def step(self, now: float) -> Values:
        for seconds in self._elapsed.slices(now):
            self._live(seconds, now)
        return {
            "occupied": self._guests > 0,
            "guests_count": self._guests,
            "call_active": self._guests > 0 and self._random.random() < 0.03,
        }

    def _live(self, seconds: float, now: float) -> None:
        if self._guests:
            self._leave_in -= seconds
            if self._leave_in <= 0:
                self._guests = 0
        elif self._random.random() < 3 * self._hours.busy(now) * seconds / 3600:
            self._guests = self._random.randint(1, self._seats)
            self._leave_in = self._random.uniform(25, 110) * 60


class Room:
    """The air of a dining room or kitchen: warmer, damper and staler the busier it is."""

    def __init__(self, random: Random, hours: Hours) -> None:
        self._random, self._hours = random, hours
        self._elapsed = Elapsed()
        self._temperature = random.uniform(19, 22)
        self._humidity = random.uniform(38, 48)
        self._co2 = random.uniform(420, 600)

    def step(self, now: float) -> Values:
        for seconds in self._elapsed.slices(now):
            self._live(seconds, now)
        return {
            "temperature_c": round(self._temperature + self._random.gauss(0, 0.05), 2),
            "humidity_pct": round(self._humidity + self._random.gauss(0, 0.3), 1),
            "co2_ppm": round(self._co2 + self._random.gauss(0, 5)),
        }

    def _live(self, seconds: float, now: float) -> None:
        busy = self._hours.busy(now)
        self._temperature = toward(self._temperature, 20 + 4.5 * busy, seconds / 2_700)
        self._humidity = toward(self._humidity, 42 + 16 * busy, seconds / 2_700)
        self._co2 = toward(self._co2, 450 + 750 * busy, seconds / 1_800)


def toward(value: float, target: float, share: float) -> float:
    """`value` after it went this share of its way to `target`."""
    return value + (target - value) * min(1.0, share)


def _entrance(random: Random, hours: Hours) -> Door:
    return Door(random, hours, per_hour=40, seconds=6)


KINDS: Final[dict[str, Callable[[Random, Hours], Thing]]] = {
    "fridge": Fridge,
    "table": Table,
    "freezer": Freezer,
    "oven": Oven,
    "door": _entrance,
    "room": Room,
}
ORDER: Final = "fridge freezer oven door table table fridge room table table".split()  # noqa: SIM905
"""What a restaurant has, of ten sensors; then the same again."""
