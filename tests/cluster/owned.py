"""Clusters that belong to a test run. One whose run was killed lives on; the next run ends it."""

import fcntl
import os
import secrets
import tempfile
from contextlib import contextmanager
from pathlib import Path

from deploy.cluster.control_plane import Cluster
from deploy.local.layout import cache_folder, hold

PREFIX = "cluster-tests-"
OWNER = ".owner"


@contextmanager
def own_cluster():
    """A cluster by a new name, not started; ended with the block, or by the next run if this process is killed."""
    name = f"tests-{secrets.token_hex(3)}"
    cluster = Cluster(name)
    owner = cluster.state.with_suffix(OWNER)  # locked by us for as long as we live; `up` empties the folder
    with _alone():
        held = hold(owner)
    try:
        yield cluster
    finally:
        cluster.down()
        owner.unlink()
        os.close(held)


def end_orphans():
    """End the clusters that nobody owns any more, and return their names."""
    ended = []
    with _alone():
        for owner in sorted((cache_folder() / "state").glob(f"{PREFIX}*{OWNER}")):
            held = hold(owner)
            if held is not None:
                cluster = Cluster(owner.stem.removeprefix("cluster-"))
                cluster.down()
                owner.unlink()
                os.close(held)
                ended.append(cluster.name)
    return ended


@contextmanager
def _alone():
    """Between making a file and locking it nobody may look at it."""
    (cache_folder() / "state").mkdir(parents=True, exist_ok=True)
    with Path(tempfile.gettempdir(), f"brigade-{os.getuid()}-cluster-tests").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
