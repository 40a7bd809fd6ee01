"""Whose CPU: the processes of the bench's instance, by what they are, between two moments."""

import os
from collections.abc import Iterable

import psycopg

from deploy.bench.instance import APPLICATION, Bench
from deploy.bench.measure import Snapshot, outer_pids

OURS = ("bridge", "worker")
SERVERS = ("mosquitto", "kafka", "postgres", "postgres closing")
REST = ("bench", "others", "stolen")
"""Not taking part: what looks on, and what the machine does besides."""
GROUPS = {
    "mosquitto": ("mosquitto",),
    "kafka": ("kafka",),
    "bridge": ("bridge-0",),
    "worker": ("worker-1",),
    "beside": ("lag", "maintain", "prometheus", "alertmanager", "redis"),
}

# The worker's connection that writes rows has a staging table of its own; its others close minutes, fold, publish.
BACKENDS = """
WITH writers AS (
    SELECT pg_stat_get_backend_pid(substring(n.nspname from '\\d+$')::int) AS pid
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relname = 'staged' AND c.relpersistence = 't'
)
SELECT pid, application_name, pid IN (SELECT pid FROM writers WHERE pid IS NOT NULL) FROM pg_stat_activity
WHERE application_name IN (%s, 'brigade-worker')"""


class Account:
    """CPU seconds by group since `begin`. `others`: the machine's rest."""

    def __init__(
        self, bench: Bench, database: psycopg.Connection, groups: Iterable[str] = tuple(GROUPS), **more: int
    ) -> None:
        """Of these groups, of PostgreSQL, and of `more` processes by name."""
        self._database = database
        pids = bench.pids()
        self._roots = {group: [pids[part] for part in GROUPS[group]] for group in groups}
        self._roots |= {group: [pid] for group, pid in more.items()}
        self._postgres = pids["postgres"]
        self._begin = self._seconds()

    def seconds(self) -> dict[str, float]:
        now = self._seconds()
        return {group: now[group] - self._begin.get(group, 0.0) for group in now}

    def per_message(self, messages: int) -> dict[str, float]:
        """Microseconds, of what takes part."""
        return {group: used / messages * 1e6 for group, used in self.seconds().items() if group not in REST}

    def _seconds(self) -> dict[str, float]:
        now = Snapshot.take()
        used = {group: now.seconds(now.family(*roots)) for group, roots in self._roots.items()}
        family = now.family(self._postgres)
        looking, closing = self._backends(family)
        used["postgres closing"] = now.seconds(closing)
        used["postgres"] = now.seconds(family - looking - closing)
        used["bench"] = now.seconds({os.getpid()} | looking) - now.processes[os.getpid()].ended
        used["others"] = now.busy - sum(used.values())
        used["stolen"] = now.stolen
        return used

    def _backends(self, family: set[int]) -> tuple[set[int], set[int]]:
        """Of the server's processes: the bench's own, and the worker's that do not write rows."""
        outer = outer_pids(family)
        looking, closing = set(), set()
        for pid, application, writes in self._database.execute(BACKENDS, (APPLICATION,)):
            if application == APPLICATION:
                looking.add(outer[pid])
            elif not writes:
                closing.add(outer[pid])
        return looking, closing
