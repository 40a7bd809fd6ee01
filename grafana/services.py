"""A dashboard for each of our services: what comes in, what goes out, how long it takes, what it waits for."""

from collections.abc import Sequence
from typing import Final

from grafana_foundation_sdk.models import dashboard as d

from grafana.boards import Board, Folder, Row
from grafana.choices import ALERTS_BOARD, SITES_BOARD, UP, annotations, instances, others
from grafana.panels import HALF, QUARTER, THIRD, Limits, Panel, Unit, lines, number, there
from grafana.queries import Instant, Range, increase, quantile, rate

LINKS: Final = (UP, ALERTS_BOARD, SITES_BOARD, others(Folder.SERVICES), others(Folder.INFRASTRUCTURE))


def _board(service: str, text: str, *rows: Row, variables: Sequence[d.VariableModel] = ()) -> Board:
    return Board(
        uid=f"brigade-{service}",
        folder=Folder.SERVICES,
        title=service.capitalize(),
        text=text,
        rows=rows,
        variables=(instances(service), *variables),
        links=LINKS,
        annotations=annotations(),
    )


def _mine(job: str) -> str:
    return f'job="{job}", instance=~"$instance"'


def process(job: str) -> Row:
    """What every Python process tells of itself."""
    mine = _mine(job)
    return Row(
        "The processes",
        (
            lines(
                "CPU",
                "Share of one core that each process uses. A process has one event loop: near 1 it is the bottleneck.",
                Range(f"rate(process_cpu_seconds_total{{{mine}}}[$__rate_interval])", "{{instance}}"),
                unit=Unit.SHARE,
                width=THIRD,
                limits=Limits(orange=0.7, red=0.95),
            ),
            lines(
                "Memory",
                "Resident memory of each process. Growth that never ends is a leak.",
                Range(f"process_resident_memory_bytes{{{mine}}}", "{{instance}}"),
                unit=Unit.BYTES,
                width=THIRD,
            ),
            lines(
                "Open files",
                "File descriptors in use, connections among them, as a share of what the process may have.",
                Range(f"process_open_fds{{{mine}}} / process_max_fds{{{mine}}}", "{{instance}}"),
                unit=Unit.SHARE,
                width=THIRD,
                limits=Limits(orange=0.7, red=0.9),
            ),
        ),
    )


def _up(job: str) -> Panel:
    return number(
        "Processes answering",
        f"Processes of {job} that answered the last scrape, as a share of those there should be.",
        Range(f'avg(up{{job="{job}"}})'),
        unit=Unit.SHARE,
        limits=Limits(orange=1, red=0.01, falling=True),
    )


def requests(job: str) -> tuple[Row, ...]:
    """Rate, errors and duration of an HTTP service."""
    mine = _mine(job)
    seconds = "http_request_duration_seconds"
    errors = (
        f'(sum(rate({seconds}_count{{{mine}, code=~"5.."}}[$__rate_interval])) or vector(0))'
        f" / sum(rate({seconds}_count{{{mine}}}[$__rate_interval]))"
    )
    return (
        Row(
            "Requests",
            (
                lines(
                    "Requests by answer",
                    "Requests a second by status code. 4xx are the caller's mistakes, 5xx are ours.",
                    rate(f"{seconds}_count", mine, "{{code}}", by="code"),
                    unit=Unit.REQUESTS_PER_SECOND,
                    stacked=True,
                    width=THIRD,
                ),
                lines(
                    "Errors",
                    "Share of requests that we answered with 5xx. 0.1 % is what a budget of 99.9 % allows.",
                    Range(errors, "5xx"),
                    unit=Unit.SHARE,
                    width=THIRD,
                    limits=Limits(orange=0.001, red=0.0144),
                ),
                lines(
                    "Time to answer",
                    "From a request's head to the last byte of its answer: half of them are quicker than p50.",
                    *(quantile(q, seconds, mine, f"p{q * 100:g}") for q in (0.5, 0.95, 0.99)),
                    unit=Unit.SECONDS,
                    width=THIRD,
                    limits=Limits(orange=0.5, red=2),
                ),
                lines(
                    "The slowest routes",
                    "The ten routes with the longest p95.",
                    Range(
                        "topk(10, histogram_quantile(0.95, sum by (le, method, route) "
                        f"(rate({seconds}_bucket{{{mine}}}[$__rate_interval]))))",
                        "{{method}} {{route}}",
                    ),
                    unit=Unit.SECONDS,
                ),
                lines(
                    "The busiest routes",
                    "The ten routes with the most requests a second.",
                    Range(
                        f"topk(10, sum by (method, route) (rate({seconds}_count{{{mine}}}[$__rate_interval])))",
                        "{{method}} {{route}}",
                    ),
                    unit=Unit.REQUESTS_PER_SECOND,
                ),
                lines(
                    "Being answered",
                    "Requests that have begun and not ended, streams among them.",
                    Range(f"http_requests_in_flight{{{mine}}}", "{{instance}}"),
                    unit=Unit.COUNT,
                ),
                lines(
                    "Bytes sent",
                    "Bytes of answers a second, without their heads.",
                    rate("http_response_bytes_total", mine, "sent"),
                    unit=Unit.BYTES_PER_SECOND,
                ),
            ),
        ),
    )


def gateway() -> Board:
    mine = _mine("gateway")
    return _board(
        "gateway",
        "The public API and the pages: requests, limits, the live stream, and what it needs.",
        Row(
            "Is it well?",
            (
                _up("gateway"),
                there(
                    "TimescaleDB",
                    "Whether the database answered when last asked.",
                    Range(f"min(gateway_database_up{{{mine}}})"),
                ),
                there(
                    "Redis",
                    "Whether Redis counted the last request that was to be counted; away until there was one.",
                    Range(f"min(gateway_redis_up{{{mine}}})"),
                ),
                number(
                    "Signing keys",
                    "Public keys of users that are known; without one nobody's token is believed.",
                    Range(f"min(gateway_signing_keys{{{mine}}})"),
                    unit=Unit.COUNT,
                    limits=Limits(orange=1, falling=True),
                ),
                number(
                    "Listeners",
                    "Clients of the live stream, of all processes.",
                    Range(f"sum(gateway_stream_listeners{{{mine}}})"),
                    unit=Unit.COUNT,
                ),
                number(
                    "Answered with 5xx",
                    "Requests of the last hour that we answered with an error of ours.",
                    Instant(
                        f'sum(increase(http_request_duration_seconds_count{{{mine}, code=~"5.."}}[1h])) or vector(0)'
                    ),
                    unit=Unit.COUNT,
                    limits=Limits(orange=1, red=100),
                    decimals=0,
                ),
            ),
        ),
        *requests("gateway"),
        Row(
            "Limits and slow clients",
            (
                lines(
                    "Refused for their number",
                    "Requests refused with 429, by whom they came from: people, machines, log-ins.",
                    rate("gateway_requests_limited_total", mine, "{{kind}}", by="kind"),
                    unit=Unit.REQUESTS_PER_SECOND,
                    width=THIRD,
                ),
                lines(
                    "Counted without Redis",
                    "While Redis is away each process counts for itself: limits are looser by the number of processes.",
                    rate("gateway_requests_counted_alone_total", mine, "{{kind}}", by="kind"),
                    unit=Unit.REQUESTS_PER_SECOND,
                    width=THIRD,
                ),
                lines(
                    "Slow clients ended",
                    "Connections that were ended because the client sent or read too slowly.",
                    rate("gateway_connections_slow_total", mine, "{{step}}", by="step"),
                    unit=Unit.PER_SECOND,
                    width=THIRD,
                ),
            ),
        ),
        Row(
            "The live stream",
            (
                lines(
                    "Listeners",
                    "Clients of the live stream by process.",
                    Range(f"gateway_stream_listeners{{{mine}}}", "{{instance}}"),
                    unit=Unit.COUNT,
                    width=THIRD,
                ),
                lines(
                    "Time to read what is new",
                    "One read of the database a second serves all listeners; above a second they fall behind.",
                    quantile(0.95, "gateway_stream_read_seconds", mine, "p95"),
                    unit=Unit.SECONDS,
                    width=THIRD,
                    limits=Limits(orange=0.5, red=1),
                ),
                lines(
                    "Reads that failed",
                    "Reads for the live stream that the database refused.",
                    rate("gateway_stream_reads_failed_total", mine, "failed"),
                    unit=Unit.PER_SECOND,
                    width=THIRD,
                ),
            ),
        ),
        Row(
            "Users, asked by the gateway",
            (
                lines(
                    "Requests to users",
                    "What the gateway passed on, by what became of it.",
                    rate("gateway_users_calls_total", mine, "{{outcome}}", by="outcome"),
                    unit=Unit.REQUESTS_PER_SECOND,
                    width=THIRD,
                ),
                lines(
                    "Tried again",
                    "Requests to users made a second time; at most one in ten.",
                    rate("gateway_users_retries_total", mine, "again"),
                    unit=Unit.REQUESTS_PER_SECOND,
                    width=THIRD,
                ),
                lines(
                    "Asked for signing keys",
                    "Fetches of the public keys of users, by outcome.",
                    rate("gateway_signing_keys_looks_total", mine, "{{outcome}}", by="outcome"),
                    unit=Unit.PER_SECOND,
                    width=THIRD,
                ),
            ),
        ),
        process("gateway"),
    )


def users() -> Board:
    mine = _mine("users")
    return _board(
        "users",
        "Accounts, sessions and tokens: who logs in, who is refused, and what it needs.",
        Row(
            "Is it well?",
            (
                _up("users"),
                there(
                    "PostgreSQL",
                    "Whether the database answered when last asked.",
                    Range(f"min(users_database_up{{{mine}}})"),
                ),
                there("Redis", "Whether Redis answered when last asked.", Range(f"min(users_redis_up{{{mine}}})")),
                number(
                    "Sessions outlive Redis",
                    "Whether Redis keeps an append-only file. If not, its restart logs everybody out.",
                    Range(f"min(users_redis_durable{{{mine}}})"),
                    unit=Unit.STATE,
                    limits=Limits(orange=1, falling=True),
                    words={"0": ("no", "red"), "1": ("yes", "green")},
                ),
                number(
                    "Stolen sessions ended",
                    "Sessions of the last day that were ended because an old refresh token came again.",
                    Instant(f"sum(increase(users_sessions_reused_total{{{mine}}}[1d]))"),
                    unit=Unit.COUNT,
                    limits=Limits(orange=1, red=10),
                    decimals=0,
                ),
                number(
                    "Log-ins",
                    "Log-ins of the last hour that succeeded and failed.",
                    Instant(f"sum(increase(users_logins_total{{{mine}}}[1h])) or vector(0)"),
                    unit=Unit.COUNT,
                    decimals=0,
                ),
            ),
        ),
        Row(
            "Who comes in",
            (
                lines(
                    "Log-ins",
                    "Attempts to log in by what became of them. Many wrong passwords are somebody guessing.",
                    rate("users_logins_total", mine, "{{result}}", by="result"),
                    unit=Unit.PER_SECOND,
                    stacked=True,
                    width=QUARTER,
                ),
                lines(
                    "Refresh tokens",
                    "Refresh tokens presented, by what became of them.",
                    rate("users_refreshes_total", mine, "{{result}}", by="result"),
                    unit=Unit.PER_SECOND,
                    stacked=True,
                    width=QUARTER,
                ),
                lines(
                    "Held up after wrong ones",
                    "Attempts that came too soon after wrong ones, and were not looked at.",
                    rate("users_throttled_total", mine, "held up"),
                    unit=Unit.PER_SECOND,
                    width=QUARTER,
                ),
                lines(
                    "Mails",
                    "Mails by what became of a try to send one.",
                    rate("users_mails_total", mine, "{{result}}", by="result"),
                    unit=Unit.PER_SECOND,
                    width=QUARTER,
                ),
                lines(
                    "Passwords hashed",
                    "argon2id computations; each takes a core for a good while, so this is most of the CPU.",
                    rate("users_passwords_hashed_total", mine, "hashed"),
                    rate("users_passwords_refused_total", mine, "refused: too many waiting"),
                    unit=Unit.PER_SECOND,
                ),
            ),
        ),
        *requests("users"),
        process("users"),
    )


def bridge() -> Board:
    mine = _mine("bridge")
    return _board(
        "bridge",
        "MQTT to Kafka: a message is acknowledged to its device when Kafka has it.",
        Row(
            "Is it well?",
            (
                _up("bridge"),
                there(
                    "Mosquitto",
                    "Whether every bridge is connected and subscribed.",
                    Range(f"min(pipeline_bridge_broker_up{{{mine}}})"),
                ),
                there(
                    "Kafka",
                    "Whether Kafka answers and takes records.",
                    Range(f"min(pipeline_bridge_kafka_up{{{mine}}})"),
                ),
                number(
                    "Waiting for Kafka",
                    "Messages received and not yet in Kafka, of all bridges.",
                    Range(f"sum(pipeline_bridge_messages_in_flight{{{mine}}})"),
                    unit=Unit.COUNT,
                    limits=Limits(orange=5_000, red=9_500),
                ),
                number(
                    "Since the last message",
                    "Time since Kafka last took a message. A busy restaurant sends every few seconds.",
                    Range(f"time() - max(pipeline_bridge_last_acknowledged_timestamp_seconds{{{mine}}})"),
                    unit=Unit.SECONDS,
                    limits=Limits(orange=60, red=300),
                ),
                number(
                    "Sessions the broker forgot",
                    "In the last day. What waited in a forgotten session is lost: find out why.",
                    Instant(f"sum(increase(pipeline_bridge_sessions_lost_total{{{mine}}}[1d]))"),
                    unit=Unit.COUNT,
                    limits=Limits(red=1),
                    decimals=0,
                ),
            ),
        ),
        Row(
            "In and out",
            (
                lines(
                    "Messages",
                    "Received from MQTT, and in Kafka. The two lie on each other; a gap is a backlog growing.",
                    rate("pipeline_bridge_messages_received_total", mine, "received"),
                    rate("pipeline_bridge_messages_acknowledged_total", mine, "in Kafka"),
                    unit=Unit.MESSAGES_PER_SECOND,
                    width=THIRD,
                ),
                lines(
                    "Messages by bridge",
                    "The broker deals messages out in turn, so bridges do alike.",
                    Range(
                        f"rate(pipeline_bridge_messages_acknowledged_total{{{mine}}}[$__rate_interval])", "{{instance}}"
                    ),
                    unit=Unit.MESSAGES_PER_SECOND,
                    width=THIRD,
                ),
                lines(
                    "Messages in a record",
                    "A Kafka record is a pack of messages: the more in one, the less each costs.",
                    Range(
                        f"sum(rate(pipeline_bridge_messages_acknowledged_total{{{mine}}}[$__rate_interval]))"
                        f" / sum(rate(pipeline_bridge_records_written_total{{{mine}}}[$__rate_interval]))",
                        "messages in a record",
                    ),
                    unit=Unit.COUNT,
                    width=THIRD,
                ),
                lines(
                    "Bytes",
                    "Topics and payloads received, and values of records written, before compression.",
                    rate("pipeline_bridge_bytes_received_total", mine, "received"),
                    rate("pipeline_bridge_record_bytes_written_total", mine, "written"),
                    unit=Unit.BYTES_PER_SECOND,
                    width=THIRD,
                ),
                lines(
                    "Waiting for Kafka",
                    "Messages received and not yet in Kafka. At the receive maximum the broker holds the rest.",
                    Range(f"pipeline_bridge_messages_in_flight{{{mine}}}", "{{instance}}"),
                    unit=Unit.COUNT,
                    width=THIRD,
                    limits=Limits(orange=5_000, red=9_500),
                ),
                lines(
                    "Memory held by them",
                    "Above a bound the bridge stops reading until Kafka has taken some.",
                    Range(f"pipeline_bridge_held_bytes{{{mine}}}", "{{instance}}"),
                    Range(f"pipeline_bridge_reading_paused{{{mine}}} * 1", "{{instance}}, 1: stopped reading"),
                    unit=Unit.BYTES,
                    width=THIRD,
                ),
            ),
        ),
        Row(
            "What goes wrong",
            (
                lines(
                    "Connections made again",
                    "Attempts to reach the broker again, and times Kafka went away.",
                    increase("pipeline_bridge_reconnects_total", mine, "{{instance}}: broker", by="instance"),
                    increase("pipeline_bridge_kafka_outages_total", mine, "{{instance}}: Kafka", by="instance"),
                    unit=Unit.COUNT,
                ),
                lines(
                    "Messages cut",
                    "Messages whose payload was too large and is kept as a dead letter, cut.",
                    rate("pipeline_bridge_messages_oversized_total", mine, "cut"),
                    unit=Unit.MESSAGES_PER_SECOND,
                ),
            ),
        ),
        process("bridge"),
    )


def worker() -> Board:
    mine = _mine("worker")
    return _board(
        "worker",
        "Kafka to TimescaleDB: decoding, the transaction, the computed minutes, hours and days, and how far behind.",
        Row(
            "Is it well?",
            (
                _up("worker"),
                there(
                    "TimescaleDB",
                    "Whether the last transaction or connection of every part of every worker worked.",
                    Range(f"min(pipeline_worker_database_up{{{mine}}})"),
                ),
                number(
                    "Oldest message not stored",
                    "Age of the first record that no worker has stored.",
                    Range("max(kafka_consumergroup_lag_seconds)"),
                    unit=Unit.SECONDS,
                    limits=Limits(orange=10, red=60),
                ),
                number(
                    "Messages behind",
                    "Messages in Kafka that are not stored yet, estimated.",
                    Range("sum(max by (partition) (kafka_consumergroup_lag_messages))"),
                    unit=Unit.COUNT,
                    limits=Limits(orange=10_000, red=100_000),
                    decimals=0,
                ),
                number(
                    "Partitions assigned",
                    "Of readings.raw, to the workers that answer: all of them, or some device's readings wait.",
                    Range(f"sum(pipeline_worker_partitions_assigned{{{mine}}})"),
                    unit=Unit.COUNT,
                ),
                number(
                    "Since the last commit",
                    "Time since a batch was last committed.",
                    Range(f"time() - max(pipeline_sink_last_commit_timestamp_seconds{{{mine}}})"),
                    unit=Unit.SECONDS,
                    limits=Limits(orange=60, red=300),
                ),
            ),
        ),
        Row(
            "In and out",
            (
                lines(
                    "Messages and rows",
                    "Messages of committed packs, and the rows that came of them.",
                    rate("pipeline_sink_messages_total", mine, "messages"),
                    rate("pipeline_sink_rows_written_total", mine, "rows"),
                    unit=Unit.PER_SECOND,
                    width=THIRD,
                ),
                lines(
                    "Readings by outcome",
                    "Stored, duplicate or refused: every reading is one of these, and nothing is lost between.",
                    rate("pipeline_sink_readings_total", mine, "{{outcome}}", by="outcome"),
                    unit=Unit.READINGS_PER_SECOND,
                    stacked=True,
                    width=THIRD,
                ),
                lines(
                    "Refused by reason",
                    "Dead letters written, by why. docs/mqtt.md tells what each reason means.",
                    rate("pipeline_sink_refused_total", mine, "{{reason}}", by="reason"),
                    unit=Unit.READINGS_PER_SECOND,
                    stacked=True,
                    width=THIRD,
                ),
                lines(
                    "Late",
                    "Stored readings that came after their minute was computed; it is computed again.",
                    rate("pipeline_sink_readings_late_total", mine, "late"),
                    unit=Unit.READINGS_PER_SECOND,
                    width=THIRD,
                ),
                lines(
                    "Time of a batch",
                    "From packs to committed.",
                    *(quantile(q, "pipeline_sink_batch_seconds", mine, f"p{q * 100:g}") for q in (0.5, 0.95)),
                    unit=Unit.SECONDS,
                    width=THIRD,
                    limits=Limits(orange=1, red=4),
                ),
                lines(
                    "Messages of a batch",
                    "The mean. It grows with the load, and that is how a worker keeps up.",
                    Range(
                        f"sum(rate(pipeline_sink_batch_messages_sum{{{mine}}}[$__rate_interval]))"
                        f" / sum(rate(pipeline_sink_batch_messages_count{{{mine}}}[$__rate_interval]))",
                        "mean",
                    ),
                    unit=Unit.COUNT,
                    width=THIRD,
                ),
            ),
        ),
        Row(
            "How far behind",
            (
                lines(
                    "Messages behind, by partition",
                    "Messages in Kafka that are not stored yet. One partition alone: its worker, or a very "
                    "loud device.",
                    Range("max by (partition) (kafka_consumergroup_lag_messages)", "{{partition}}"),
                    unit=Unit.COUNT,
                    stacked=True,
                    width=THIRD,
                ),
                lines(
                    "Oldest message not stored, by partition",
                    "Age of the first record that is not stored.",
                    Range("max by (partition) (kafka_consumergroup_lag_seconds)", "{{partition}}"),
                    unit=Unit.SECONDS,
                    width=THIRD,
                    limits=Limits(orange=10, red=60),
                ),
                lines(
                    "Since it last got on",
                    "Time since each worker last got on, or had nothing to do. At 120 s the process ends itself.",
                    Range(f"pipeline_worker_progress_age_seconds{{{mine}}}", "{{instance}}"),
                    unit=Unit.SECONDS,
                    width=THIRD,
                    limits=Limits(orange=30, red=110),
                ),
            ),
        ),
        Row(
            "Minutes, hours and days",
            (
                lines(
                    "Buckets computed",
                    "By level; late readings compute theirs again.",
                    rate("pipeline_closing_closed_total", mine, "{{level}}", by="level"),
                    unit=Unit.PER_SECOND,
                    width=THIRD,
                ),
                lines(
                    "Time of a slice",
                    "One transaction of the closer, p95 by level. A writer never waits for it.",
                    quantile(0.95, "pipeline_closing_slice_seconds", mine, "{{level}}", by="level"),
                    unit=Unit.SECONDS,
                    width=THIRD,
                    limits=Limits(orange=1, red=3),
                ),
                lines(
                    "The outbox",
                    "Rows that Kafka acknowledged, and times that publishing was put off because Kafka was away.",
                    rate("pipeline_outbox_published_total", mine, "{{what}}", by="what"),
                    rate("pipeline_outbox_retries_total", mine, "put off"),
                    unit=Unit.PER_SECOND,
                    width=THIRD,
                ),
            ),
        ),
        Row(
            "What goes wrong",
            (
                lines(
                    "Tried again",
                    "Transactions tried again after an outage of the database, by the part that waited.",
                    increase("pipeline_worker_database_retries_total", mine, "{{part}}", by="part"),
                    unit=Unit.COUNT,
                    width=THIRD,
                ),
                lines(
                    "Two at one partition",
                    "Batches rolled back because another worker had been there, and assignments received.",
                    increase("pipeline_sink_fenced_total", mine, "rolled back"),
                    increase("pipeline_worker_rebalances_total", mine, "assignments"),
                    increase("pipeline_worker_seeks_back_total", mine, "sought back"),
                    unit=Unit.COUNT,
                    width=THIRD,
                ),
                lines(
                    "Rare and serious",
                    "Records that Kafka dropped before they were read, batches halved because the database "
                    "refused them, frozen workers ended.",
                    increase("pipeline_sink_offsets_skipped_total", mine, "records dropped unread"),
                    increase("pipeline_sink_batches_halved_total", mine, "batches halved"),
                    increase("pipeline_worker_frozen_ended_total", mine, "frozen ended"),
                    increase("pipeline_outbox_refused_total", mine, "outbox rows given up"),
                    unit=Unit.COUNT,
                    width=THIRD,
                    limits=Limits(red=1),
                ),
                lines(
                    "The ways of a batch",
                    "Direct is the fast one; staged is taken for a while after a repeat that memory did not catch.",
                    rate("pipeline_sink_batches_total", mine, "{{way}}", by="way"),
                    unit=Unit.PER_SECOND,
                    width=HALF,
                ),
            ),
        ),
        process("worker"),
    )


BOARDS: Final = (gateway(), users(), bridge(), worker())
