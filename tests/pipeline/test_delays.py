"""The histogram that is filled by the batch tells what prometheus-client's own would."""

import random

from prometheus_client import CollectorRegistry, Histogram, generate_latest

from pipeline.delays import BOUNDS, Delays
from pipeline.readings import US

NOW = 1_800_000_000 * US


def test_it_counts_as_a_histogram_that_observes_each():
    plain, ours = CollectorRegistry(), CollectorRegistry()
    delays = Delays("delay_seconds", "So long.")
    ours.register(delays)
    observed = Histogram("delay_seconds", "So long.", buckets=BOUNDS, registry=plain)
    dice = random.Random(4)
    for size in (0, 1, 2, 50):
        seconds = [dice.choice([0.1, 10, 86400, dice.expovariate(0.1), dice.uniform(0, 2)]) for _ in range(size)]
        moments = [NOW - round(s * US) for s in seconds]
        delays.add(moments, NOW)
        for moment in moments:
            observed.observe((NOW - moment) / US)
    lines = [text for text in generate_latest(plain).decode().splitlines() if "_created" not in text]
    told, expected = generate_latest(ours).decode().splitlines(), lines
    assert [t for t in told if "_sum" not in t] == [e for e in expected if "_sum" not in e]
    assert abs(value(told, "delay_seconds_sum") - value(expected, "delay_seconds_sum")) < 0.001


def test_a_device_whose_clock_is_ahead_has_no_delay_and_takes_none_away():
    delays = Delays("delay_seconds", "So long.")
    delays.add([NOW + 5 * US, NOW - 2 * US], NOW)
    told = samples(delays)
    assert (told["0.1"], told["2.5"], told["+Inf"]) == (1, 2, 2)
    assert told["sum"] == 2


def test_one_of_many_stands_for_the_others():
    delays = Delays("delay_seconds", "So long.")
    delays.add([NOW - US], NOW, weight=16)
    told = samples(delays)
    assert (told["0.5"], told["1.0"], told["+Inf"], told["sum"]) == (0, 16, 16, 16)


def samples(delays):
    (family,) = delays.collect()
    return {sample.labels.get("le", sample.name.rpartition("_")[2]): sample.value for sample in family.samples}


def value(lines, name):
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))
