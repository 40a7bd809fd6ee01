"""One line per event on stdout: JSON, or readable where a person watches a terminal."""

import logging
import sys
from collections import deque
from types import TracebackType
from typing import Any, Final

import structlog
from structlog.typing import EventDict, Processor

RECENT: Final[deque[dict[str, str]]] = deque(maxlen=20)
"""The last warnings and errors of this process, oldest first; /errors of its health port tells them."""

WORTH_KEEPING: Final = frozenset({"warning", "error", "critical"})
TALKATIVE: Final = ("httpx", "httpcore", "h11", "hpack", "urllib3", "aiosmtplib", "multipart")
"""Below WARNING they tell addresses and headers, and tokens are some of them: not even DEBUG shows that."""
REASONS: Final = ("why", "reason", "error", "detail")
"""What our events call it."""

_SHARED: Final[tuple[Processor, ...]] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)


def configure(service: str, level: str, **always: object) -> None:
    """Send structlog's events and the standard library's records to stdout, each bearing `service` and `always`."""
    facts = {"service": service, **always}
    logging.basicConfig(level=level, handlers=[_stdout(facts)], force=True)
    logging.captureWarnings(capture=True)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    sys.excepthook = _died
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def _died(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What nobody caught ends the process: one line like all others, not a traceback beside them."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger().critical("died", exc_info=(kind, error, trace), extra={"reason": kind.__name__})


def _stdout(facts: dict[str, object]) -> logging.Handler:
    """With these facts in every line, also of threads and callbacks, which have contexts of their own."""

    def stated(_logger: Any, _method: str, event: EventDict) -> EventDict:
        event.update(facts)
        return event

    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            # The name of its logger tells a library's line, whose levels mean what the library likes, from ours.
            foreign_pre_chain=[*_SHARED, structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, stated, _remember, *_rendering()],
        )
    )
    return handler


def _rendering() -> tuple[Processor, ...]:
    if sys.stdout.isatty():
        # The default formatter shows local variables, and passwords are some of them.
        return (structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),)
    return (structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str))


def _remember(_logger: Any, _method: str, event: EventDict) -> EventDict:
    if event.get("level") in WORTH_KEEPING:
        reason = next((str(event[name]) for name in REASONS if event.get(name)), "")
        kept = {name: str(event[name]) for name in ("timestamp", "level", "event", "logger") if name in event}
        RECENT.append(kept | {"reason": reason})
    return event
