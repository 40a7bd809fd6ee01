"""A histogram filled a batch at a time: `Histogram.observe` for each reading would cost 0.8 µs of its 14."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from pipeline.readings import US

BOUNDS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0, 86400.0)
_BOUNDS_US: Final = tuple(round(bound * US) for bound in BOUNDS)


class Delays(Collector):
    """Seconds between moments and now. A moment that is still to come counts as no delay at all."""

    def __init__(self, name: str, documentation: str) -> None:
        self._name = name
        self._documentation = documentation
        self._told = ([0] * len(BOUNDS), 0, 0)  # within each bound, all, their sum; replaced whole: a scrape may come

    def add(self, moments_us: Iterable[int], now_us: int, *, weight: int = 1) -> None:
        """Each moment stands for `weight` of its kind."""
        moments = sorted(moments_us)
        within, count, sum_us = self._told
        all_of_them = len(moments)
        more = [all_of_them - bisect_left(moments, now_us - bound_us) for bound_us in _BOUNDS_US]
        past = moments[: bisect_right(moments, now_us)]
        self._told = (
            [before + weight * n for before, n in zip(within, more, strict=True)],
            count + weight * all_of_them,
            sum_us + weight * (len(past) * now_us - sum(past)),
        )

    def collect(self) -> Iterator[HistogramMetricFamily]:
        within, count, sum_us = self._told
        buckets = [(str(bound), float(n)) for bound, n in zip(BOUNDS, within, strict=True)]
        yield HistogramMetricFamily(
            self._name, self._documentation, buckets=[*buckets, ("+Inf", float(count))], sum_value=sum_us / US
        )
