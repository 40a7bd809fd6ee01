"""A part of ours without metrics, to see what they cost: `python -m deploy.bench.unmeasured pipeline.bridge`.

Or with the path of a script, and its arguments. The metrics are there, and count nothing.
"""

import runpy
import sys
from typing import Any

from prometheus_client import Counter, Gauge, Histogram


def nothing(_self: Any, *_: object, **__: object) -> None:
    """Instead of counting."""


def itself(self: Any, *_: object, **__: object) -> Any:
    """Instead of a child for these labels."""
    return self


def main() -> None:
    for kind in (Counter, Gauge, Histogram):
        for method in ("inc", "dec", "set", "set_to_current_time", "observe"):
            if hasattr(kind, method):
                setattr(kind, method, nothing)
        kind.labels = itself  # type: ignore[method-assign]
    sys.argv = sys.argv[1:]
    if "/" in sys.argv[0]:
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
