"""How many connections of a pool are busy, told by the gauges of the service whose pool it is."""

from typing import Any

from prometheus_client import Gauge
from psycopg_pool import AsyncConnectionPool


def measure(pool: AsyncConnectionPool[Any], *, connections: Gauge, limit: Gauge, waiting: Gauge) -> None:
    """Asked at each scrape; `connections` has the label `state`: busy or idle."""

    def stat(name: str) -> int:
        return pool.get_stats().get(name, 0)

    connections.labels("busy").set_function(lambda: stat("pool_size") - stat("pool_available"))
    connections.labels("idle").set_function(lambda: stat("pool_available"))
    limit.set_function(lambda: stat("pool_max"))
    waiting.set_function(lambda: stat("requests_waiting"))
