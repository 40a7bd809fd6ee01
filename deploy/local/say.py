"""One readable line per event."""

import sys
from datetime import datetime


def say(what: str) -> None:
    sys.stdout.write(f"{datetime.now().astimezone():%H:%M:%S} {what}\n")  # in one piece: threads speak too
    sys.stdout.flush()


def stop(why: object) -> None:
    print(why, file=sys.stderr, flush=True)
    raise SystemExit(1)
