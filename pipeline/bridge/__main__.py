"""`python -m pipeline.bridge [--leave]`."""

import argparse

import structlog
import uvloop

from observability import logs, tracing
from pipeline.bridge.process import Process
from pipeline.bridge.producer import RecordError
from pipeline.mqtt import RefusedError, TakenOverError
from pipeline.settings import BridgeSettings, load
from pipeline.topics import TopicsError


def main() -> int:
    arguments = _arguments()
    settings = load(BridgeSettings)
    logs.configure("bridge", settings.log_level, ordinal=settings.bridge_ordinal)
    process = Process(settings, tracing.start("bridge"))
    try:
        return uvloop.run(process.leave() if arguments.leave else process.serve())
    except (RecordError, RefusedError, TopicsError) as error:
        structlog.get_logger().error("bridge_failed", reason=f"{error}{_advice(error)}")
        return 1


def _advice(error: Exception) -> str:
    match error:
        case TakenOverError():
            return ": is there another bridge with this BRIGADE_BRIDGE_ORDINAL?"
        case RefusedError(reason=134 | 135):  # bad user name or password, not authorized
            return ": are BRIGADE_MQTT_USER and BRIGADE_MQTT_PASSWORD right, and may it subscribe?"
    return ""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline.bridge", description="Carry MQTT messages to Kafka.")
    parser.add_argument(
        "--leave",
        action="store_true",
        help="when this bridge is stopped for good: unsubscribe, forward what its session still holds, end the session",
    )
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
