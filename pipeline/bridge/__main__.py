"""`python -m pipeline.bridge [--leave]`."""

import argparse

import structlog
import uvloop

from observability import logs
from pipeline.bridge.process import Process
from pipeline.bridge.producer import RecordError
from pipeline.mqtt import RefusedError
from pipeline.settings import BridgeSettings, load
from pipeline.topics import TopicsError


def main() -> int:
    arguments = _arguments()
    settings = load(BridgeSettings)
    logs.configure("bridge", settings.log_level)
    structlog.contextvars.bind_contextvars(ordinal=settings.bridge_ordinal)
    process = Process(settings)
    try:
        return uvloop.run(process.leave() if arguments.leave else process.serve())
    except (RecordError, RefusedError, TopicsError) as error:
        structlog.get_logger().error("bridge_failed", reason=str(error))
        return 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline.bridge", description="Carry MQTT messages to Kafka.")
    parser.add_argument(
        "--leave",
        action="store_true",
        help="give up this bridge for good: unsubscribe, forward what its session still holds, end the session",
    )
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
