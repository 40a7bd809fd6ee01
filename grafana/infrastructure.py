"""The servers below us, by utilisation, saturation and errors; the exporters' own names (deploy/prometheus)."""

from typing import Final

from grafana.boards import Board, Folder, Row
from grafana.choices import ALERTS_BOARD, UP, annotations, labels, others
from grafana.panels import HALF, THIRD, Limits, Unit, lines, number, there
from grafana.queries import Instant, Range

LINKS: Final = (UP, ALERTS_BOARD, others(Folder.INFRASTRUCTURE), others(Folder.SERVICES))
FULL: Final = Limits(orange=0.7, red=0.9)


def _board(uid: str, title: str, text: str, *rows: Row) -> Board:
    return Board(
        uid=f"infrastructure-{uid}",
        folder=Folder.INFRASTRUCTURE,
        title=title,
        text=text,
        rows=rows,
        links=LINKS,
        annotations=annotations(),
    )


NODE: Final = labels(
    "node", "Node", "Machines, by the address of their exporter.", metric="node_uname_info", of="instance"
)


def nodes() -> Board:
    mine = 'instance=~"$node"'
    return Board(
        uid="infrastructure-nodes",
        folder=Folder.INFRASTRUCTURE,
        title="Nodes",
        text="Processor, memory, disks and network of the machines.",
        links=LINKS,
        annotations=annotations(),
        variables=(NODE,),
        rows=(
            Row(
                "Utilisation",
                (
                    lines(
                        "Processor",
                        "Share of the time that the cores were busy.",
                        Range(f"instance:node_cpu:utilisation_rate5m{{{mine}}}", "{{instance}}"),
                        unit=Unit.SHARE,
                        width=THIRD,
                        limits=FULL,
                        highest=1,
                    ),
                    lines(
                        "Memory",
                        "Share of the memory that is not available to programs.",
                        Range(f"instance:node_memory:utilisation{{{mine}}}", "{{instance}}"),
                        unit=Unit.SHARE,
                        width=THIRD,
                        limits=FULL,
                        highest=1,
                    ),
                    lines(
                        "File systems",
                        "Share of each file system that is used.",
                        Range(
                            f"instance_mountpoint:node_filesystem:utilisation{{{mine}}}", "{{instance}} {{mountpoint}}"
                        ),
                        unit=Unit.SHARE,
                        width=THIRD,
                        limits=Limits(orange=0.8, red=0.9),
                        highest=1,
                    ),
                ),
            ),
            Row(
                "Saturation",
                (
                    lines(
                        "Load for each core",
                        "Processes that run or want to, for each core. Above 1 they wait.",
                        Range(f"instance:node_load1:per_cpu{{{mine}}}", "{{instance}}"),
                        unit=Unit.COUNT,
                        width=THIRD,
                        limits=Limits(orange=1, red=3),
                    ),
                    lines(
                        "Disks busy",
                        "Share of the time in which each disk had something to do.",
                        Range(f"instance_device:node_disk_io:utilisation_rate5m{{{mine}}}", "{{instance}} {{device}}"),
                        unit=Unit.SHARE,
                        width=THIRD,
                        limits=FULL,
                    ),
                    lines(
                        "Memory from disk",
                        "Page faults a second that had to be read from disk: memory is short.",
                        Range(f"rate(node_vmstat_pgmajfault{{{mine}}}[$__rate_interval])", "{{instance}}"),
                        unit=Unit.PER_SECOND,
                        width=THIRD,
                    ),
                ),
            ),
            Row(
                "Traffic and errors",
                (
                    lines(
                        "Disk traffic",
                        "Bytes read and written a second.",
                        Range(
                            f"sum by (instance) (rate(node_disk_read_bytes_total{{{mine}}}[$__rate_interval]))",
                            "{{instance}} read",
                        ),
                        Range(
                            f"sum by (instance) (rate(node_disk_written_bytes_total{{{mine}}}[$__rate_interval]))",
                            "{{instance}} written",
                        ),
                        unit=Unit.BYTES_PER_SECOND,
                        width=THIRD,
                    ),
                    lines(
                        "Network traffic",
                        "Bytes received and sent a second, without the loopback.",
                        Range(
                            f"sum by (instance) (rate(node_network_receive_bytes_total{{{mine}, "
                            'device!="lo"}[$__rate_interval]))',
                            "{{instance}} received",
                        ),
                        Range(
                            f"sum by (instance) (rate(node_network_transmit_bytes_total{{{mine}, "
                            'device!="lo"}[$__rate_interval]))',
                            "{{instance}} sent",
                        ),
                        unit=Unit.BYTES_PER_SECOND,
                        width=THIRD,
                    ),
                    lines(
                        "Network errors",
                        "Packets a second that were faulty or dropped.",
                        Range(
                            f"sum by (instance) (rate(node_network_receive_errs_total{{{mine}}}[$__rate_interval])"
                            f" + rate(node_network_transmit_errs_total{{{mine}}}[$__rate_interval]))",
                            "{{instance}} faulty",
                        ),
                        Range(
                            f"sum by (instance) (rate(node_network_receive_drop_total{{{mine}}}[$__rate_interval])"
                            f" + rate(node_network_transmit_drop_total{{{mine}}}[$__rate_interval]))",
                            "{{instance}} dropped",
                        ),
                        unit=Unit.PER_SECOND,
                        width=THIRD,
                    ),
                ),
            ),
        ),
    )


def pods() -> Board:
    """The metrics here are Kubernetes' own: kubelet, kube-state-metrics."""
    mine = 'namespace=~"$namespace"'
    return Board(
        uid="infrastructure-pods",
        folder=Folder.INFRASTRUCTURE,
        title="Pods",
        text="Pods in Kubernetes: are they there, do they start again and again, what do they use of what they "
        "may. Empty without Kubernetes.",
        links=LINKS,
        annotations=annotations(),
        variables=(
            labels("namespace", "Namespace", "Namespaces of Kubernetes.", metric="kube_pod_info", of="namespace"),
        ),
        rows=(
            Row(
                "Are they there?",
                (
                    lines(
                        "Replicas that are missing",
                        "Replicas that each deployment should have and that are not available.",
                        Range(
                            f"kube_deployment_spec_replicas{{{mine}}} - "
                            f"kube_deployment_status_replicas_available{{{mine}}}",
                            "{{deployment}}",
                        ),
                        unit=Unit.COUNT,
                        width=THIRD,
                        limits=Limits(red=1),
                    ),
                    lines(
                        "Restarts",
                        "Containers that were started again.",
                        Range(
                            "sum by (pod) "
                            f"(increase(kube_pod_container_status_restarts_total{{{mine}}}[$__rate_interval]))",
                            "{{pod}}",
                        ),
                        unit=Unit.COUNT,
                        width=THIRD,
                        bars=True,
                        limits=Limits(orange=1),
                    ),
                    lines(
                        "Autoscaling",
                        "Replicas that each autoscaler wants, and the most it may.",
                        Range(
                            f"kube_horizontalpodautoscaler_status_desired_replicas{{{mine}}}",
                            "{{horizontalpodautoscaler}}",
                        ),
                        Range(
                            f"kube_horizontalpodautoscaler_spec_max_replicas{{{mine}}}",
                            "{{horizontalpodautoscaler}}, at most",
                        ),
                        unit=Unit.COUNT,
                        width=THIRD,
                    ),
                ),
            ),
            Row(
                "What they use",
                (
                    lines(
                        "Processor",
                        "Cores that each pod uses, as a share of its limit. At 1 it is throttled.",
                        Range(
                            f"sum by (pod) (rate(container_cpu_usage_seconds_total{{{mine}, "
                            'container!=""}[$__rate_interval]))'
                            f' / sum by (pod) (kube_pod_container_resource_limits{{{mine}, resource="cpu"}})',
                            "{{pod}}",
                        ),
                        unit=Unit.SHARE,
                        width=HALF,
                        limits=FULL,
                    ),
                    lines(
                        "Memory",
                        "Working set of each pod, as a share of its limit. At 1 it is killed.",
                        Range(
                            f'sum by (pod) (container_memory_working_set_bytes{{{mine}, container!=""}})'
                            f' / sum by (pod) (kube_pod_container_resource_limits{{{mine}, resource="memory"}})',
                            "{{pod}}",
                        ),
                        unit=Unit.SHARE,
                        width=HALF,
                        limits=FULL,
                    ),
                ),
            ),
        ),
    )


def kafka() -> Board:
    return _board(
        "kafka",
        "Kafka",
        "The broker between bridge and worker: what it takes, how busy it is, who is how far behind.",
        Row(
            "Is it well?",
            (
                there(
                    "Exporter", "Whether Kafka's metrics were read at the last scrape.", Range('min(up{job="kafka"})')
                ),
                number(
                    "Request handlers busy",
                    "Share of the time that Kafka's request handlers were busy.",
                    Range("max(instance:kafka_request_handlers:utilisation)"),
                    unit=Unit.SHARE,
                    limits=FULL,
                ),
                number(
                    "Records behind",
                    "Records that the workers have not stored.",
                    Range("sum(consumergroup:kafka_consumergroup_lag:sum)"),
                    unit=Unit.COUNT,
                    decimals=0,
                ),
                number(
                    "Messages behind",
                    "Messages in them, estimated.",
                    Range("sum(consumergroup:kafka_consumergroup_lag_messages:sum)"),
                    unit=Unit.COUNT,
                    limits=Limits(orange=10_000, red=100_000),
                    decimals=0,
                ),
                number(
                    "Oldest",
                    "Age of the first record that is not stored.",
                    Range("max(consumergroup:kafka_consumergroup_lag_seconds:max)"),
                    unit=Unit.SECONDS,
                    limits=Limits(orange=10, red=60),
                ),
                number(
                    "Since lag was looked at",
                    "Time since the lag exporter last read Kafka with success. What is older is not known.",
                    Range("time() - max(pipeline_lag_last_look_timestamp_seconds)"),
                    unit=Unit.SECONDS,
                    limits=Limits(orange=60, red=180),
                ),
            ),
        ),
        Row(
            "Topics and groups",
            (
                lines(
                    "Records in",
                    "Records that were written a second, by topic.",
                    Range("topic:kafka_messages_in:rate5m", "{{topic}}"),
                    unit=Unit.PER_SECOND,
                    width=THIRD,
                ),
                lines(
                    "Records behind, by partition",
                    "Records that the workers have not stored.",
                    Range("max by (topic, partition) (kafka_consumergroup_lag)", "{{topic}} {{partition}}"),
                    unit=Unit.COUNT,
                    stacked=True,
                    width=THIRD,
                ),
                lines(
                    "Written and read",
                    "How fast the ends of the partitions and the workers' places in them move, in records a second.",
                    Range("sum(rate(kafka_topic_partition_current_offset[$__rate_interval]))", "written"),
                    Range("sum(rate(kafka_consumergroup_current_offset[$__rate_interval]))", "read"),
                    unit=Unit.PER_SECOND,
                    width=THIRD,
                ),
                lines(
                    "Looks of the lag exporter",
                    "Looks at Kafka that ended well and that did not.",
                    Range("sum(rate(pipeline_lag_looks_total[$__rate_interval]))", "well"),
                    Range("sum(rate(pipeline_lag_look_failures_total[$__rate_interval]))", "failed"),
                    unit=Unit.PER_SECOND,
                    width=HALF,
                ),
                lines(
                    "Time of a look",
                    "How long the last successful look at Kafka took.",
                    Range("pipeline_lag_look_duration_seconds", "{{instance}}"),
                    unit=Unit.SECONDS,
                    width=HALF,
                    limits=Limits(orange=5, red=15),
                ),
            ),
        ),
    )


def timescaledb() -> Board:
    database = 'datname!~"template.*|postgres"'
    return _board(
        "timescaledb",
        "TimescaleDB",
        "The databases: connections, transactions, cache, locks, sizes, and the maintenance of the readings.",
        Row(
            "Is it well?",
            (
                there("PostgreSQL", "Whether the exporter reached the server.", Range("min(pg_up)")),
                number(
                    "Connections used",
                    "Share of max_connections.",
                    Range("max(instance:pg_connections:utilisation)"),
                    unit=Unit.SHARE,
                    limits=FULL,
                ),
                number(
                    "From the cache",
                    "Share of the blocks that were found in shared buffers, of the database that found the fewest.",
                    Range("min(datname:pg_cache_hits:ratio_rate5m)"),
                    unit=Unit.SHARE,
                    limits=Limits(orange=0.95, red=0.8, falling=True),
                ),
                number(
                    "Since maintenance",
                    "Time since a run of maintenance ended well: it drops what is older than the retention.",
                    Range("time() - max(pipeline_maintain_last_run_timestamp_seconds)"),
                    unit=Unit.SECONDS,
                    limits=Limits(orange=7200, red=86_400),
                ),
                number(
                    "Buckets overdue",
                    "Minutes, hours and days that should have been computed and are not.",
                    Range("sum(pipeline_fleet_marks_overdue)"),
                    unit=Unit.COUNT,
                    limits=Limits(orange=1, red=10_000),
                ),
                number(
                    "Deadlocks",
                    "Of the last day; one of the two transactions is tried again.",
                    Instant("sum(increase(pg_stat_database_deadlocks[1d]))"),
                    unit=Unit.COUNT,
                    limits=Limits(orange=1),
                    decimals=0,
                ),
            ),
        ),
        Row(
            "Work",
            (
                lines(
                    "Transactions",
                    "Committed and rolled back, by database.",
                    Range("datname:pg_transactions:rate5m", "{{datname}}"),
                    unit=Unit.PER_SECOND,
                    width=THIRD,
                ),
                lines(
                    "Rows written",
                    "Inserted, updated and deleted a second.",
                    Range(f"sum(rate(pg_stat_database_tup_inserted{{{database}}}[$__rate_interval]))", "inserted"),
                    Range(f"sum(rate(pg_stat_database_tup_updated{{{database}}}[$__rate_interval]))", "updated"),
                    Range(f"sum(rate(pg_stat_database_tup_deleted{{{database}}}[$__rate_interval]))", "deleted"),
                    unit=Unit.ROWS_PER_SECOND,
                    width=THIRD,
                ),
                lines(
                    "Connections",
                    "By database.",
                    Range(f"pg_stat_database_numbackends{{{database}}}", "{{datname}}"),
                    unit=Unit.COUNT,
                    stacked=True,
                    width=THIRD,
                ),
                lines(
                    "Locks",
                    "Locks that are held or waited for, by mode.",
                    Range(f"sum by (mode) (pg_locks_count{{{database}}})", "{{mode}}"),
                    unit=Unit.COUNT,
                    width=THIRD,
                ),
                lines(
                    "Temporary files",
                    "Bytes a second that sorts and joins wrote to disk for want of work_mem.",
                    Range(
                        f"sum by (datname) (rate(pg_stat_database_temp_bytes{{{database}}}[$__rate_interval]))",
                        "{{datname}}",
                    ),
                    unit=Unit.BYTES_PER_SECOND,
                    width=THIRD,
                ),
                lines(
                    "Sizes",
                    "Of the databases on disk.",
                    Range(f"pg_database_size_bytes{{{database}}}", "{{datname}}"),
                    unit=Unit.BYTES,
                    width=THIRD,
                ),
            ),
        ),
        Row(
            "Our pools of connections",
            (
                lines(
                    "Gateway",
                    "Connections in use and idle, and requests that wait for one, of all processes.",
                    Range("sum by (state) (gateway_database_pool_connections)", "{{state}}"),
                    Range("sum(gateway_database_pool_requests_waiting)", "waiting"),
                    unit=Unit.COUNT,
                    width=HALF,
                ),
                lines(
                    "Users",
                    "Connections in use and idle, and requests that wait for one, of all processes.",
                    Range("sum by (state) (users_database_pool_connections)", "{{state}}"),
                    Range("sum(users_database_pool_requests_waiting)", "waiting"),
                    unit=Unit.COUNT,
                    width=HALF,
                ),
            ),
        ),
        Row(
            "Maintenance",
            (
                lines(
                    "Chunks dropped and compressed",
                    "Chunks dropped for their age, and chunks compressed, by table.",
                    Range(
                        "sum by (table) (increase(pipeline_maintain_chunks_dropped_total[$__rate_interval]))",
                        "{{table}} dropped",
                    ),
                    Range(
                        "sum by (table) (increase(pipeline_maintain_chunks_compressed_total[$__rate_interval]))",
                        "{{table}} compressed",
                    ),
                    unit=Unit.COUNT,
                    bars=True,
                    width=THIRD,
                ),
                lines(
                    "Runs",
                    "Runs of maintenance that ended well, and that an outage ended.",
                    Range("sum(increase(pipeline_maintain_runs_total[$__rate_interval]))", "well"),
                    Range(
                        "sum(increase(pipeline_maintain_run_failures_total[$__rate_interval]))", "ended by an outage"
                    ),
                    unit=Unit.COUNT,
                    bars=True,
                    width=THIRD,
                ),
                lines(
                    "What waits",
                    "Rows in the outbox, accounts not folded into the ledger, and buckets overdue.",
                    Range("max(pipeline_fleet_outbox_rows)", "outbox"),
                    Range("max(pipeline_fleet_ledger_pending_rows)", "accounts"),
                    Range("sum by (level) (pipeline_fleet_marks_overdue)", "overdue: {{level}}"),
                    unit=Unit.COUNT,
                    width=THIRD,
                ),
            ),
        ),
    )


def mosquitto() -> Board:
    return _board(
        "mosquitto",
        "Mosquitto",
        "The MQTT broker, by what it tells of itself: who is connected, what comes and goes, what it dropped.",
        Row(
            "Is it well?",
            (
                there("Mosquitto", "Whether the broker tells of itself.", Range("min(broker_up)")),
                number(
                    "Clients",
                    "Connected now.",
                    Range("sum(broker_clients_connected)"),
                    unit=Unit.COUNT,
                ),
                number(
                    "Kept for later",
                    "Messages that wait in the broker, retained ones included.",
                    Range("sum(broker_messages_stored)"),
                    unit=Unit.COUNT,
                    limits=Limits(orange=100_000, red=1_000_000),
                ),
                number(
                    "Dropped",
                    "Messages of the last hour that the broker dropped for full queues. Those are lost.",
                    Instant("sum(increase(broker_publish_messages_dropped[1h]))"),
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
                    "PUBLISH packets a second, received from devices and sent to bridges.",
                    Range("sum(broker:publish_messages_received:rate5m)", "received"),
                    Range("sum(broker:publish_messages_sent:rate5m)", "sent"),
                    Range("sum(broker:publish_messages_dropped:rate5m)", "dropped"),
                    unit=Unit.MESSAGES_PER_SECOND,
                    width=THIRD,
                ),
                lines(
                    "Bytes",
                    "Received and sent a second.",
                    Range("sum(rate(broker_bytes_received[$__rate_interval]))", "received"),
                    Range("sum(rate(broker_bytes_sent[$__rate_interval]))", "sent"),
                    unit=Unit.BYTES_PER_SECOND,
                    width=THIRD,
                ),
                lines(
                    "Clients",
                    "Connected clients. A step down is a network, or the broker.",
                    Range("sum(broker_clients_connected)", "connected"),
                    unit=Unit.COUNT,
                    width=THIRD,
                ),
                lines(
                    "Kept",
                    "Messages that wait, and subscriptions.",
                    Range("sum(broker_messages_stored)", "messages"),
                    Range("sum(broker_subscriptions_count)", "subscriptions"),
                    unit=Unit.COUNT,
                    width=HALF,
                ),
                lines(
                    "Devices",
                    "By what is heard from them: offline says so itself, silent sent nothing in this hour or the last.",
                    Range("sum by (state) (pipeline_fleet_devices)", "{{state}}"),
                    unit=Unit.COUNT,
                    stacked=True,
                    width=HALF,
                ),
            ),
        ),
    )


def redis() -> Board:
    return _board(
        "redis",
        "Redis",
        "Sessions of users and the gateway's limits.",
        Row(
            "Is it well?",
            (
                there("Redis", "Whether the exporter reached the server.", Range("min(redis_up)")),
                number(
                    "Memory used",
                    "Share of what it may use, of the machine's memory if it has no bound.",
                    Range("max(instance:redis_memory:utilisation)"),
                    unit=Unit.SHARE,
                    limits=FULL,
                    none="no bound",
                ),
                number("Clients", "Connected now.", Range("sum(redis_connected_clients)"), unit=Unit.COUNT),
                number(
                    "Keys thrown out",
                    "Keys of the last day that Redis threw out for want of memory: sessions among them.",
                    Instant("sum(increase(redis_evicted_keys_total[1d]))"),
                    unit=Unit.COUNT,
                    limits=Limits(red=1),
                    decimals=0,
                ),
                number(
                    "Up for",
                    "Time since it was started.",
                    Range("min(redis_uptime_in_seconds)"),
                    unit=Unit.SECONDS,
                ),
            ),
        ),
        Row(
            "Work",
            (
                lines(
                    "Commands",
                    "Commands a second.",
                    Range("sum by (instance) (rate(redis_commands_processed_total[$__rate_interval]))", "{{instance}}"),
                    unit=Unit.PER_SECOND,
                    width=THIRD,
                ),
                lines(
                    "Memory",
                    "Bytes used for data and buffers.",
                    Range("redis_memory_used_bytes", "{{instance}}"),
                    unit=Unit.BYTES,
                    width=THIRD,
                ),
                lines(
                    "Clients",
                    "Connected, and held up by a blocking command.",
                    Range("sum(redis_connected_clients)", "connected"),
                    Range("sum(redis_blocked_clients)", "blocked"),
                    unit=Unit.COUNT,
                    width=THIRD,
                ),
            ),
        ),
    )


SERVERS: Final = (
    ("Kafka", 'min(up{job="kafka"})'),
    ("TimescaleDB", "min(pg_up)"),
    ("Mosquitto", "min(broker_up)"),
    ("Redis", "min(redis_up)"),
)

BOARDS: Final = (nodes(), pods(), kafka(), timescaledb(), mosquitto(), redis())
