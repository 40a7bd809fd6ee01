"""`scripts/cluster`: the control plane of a real Kubernetes, and a node if asked; what is down is forgotten."""

import argparse
import os
from pathlib import Path

from deploy.cluster import binary, control_plane, metrics, node
from deploy.cluster.control_plane import Cluster, ClusterError
from deploy.cluster.images import archives
from deploy.images import images
from deploy.images.clients import ClientsError
from deploy.images.engine import EngineError
from deploy.local.say import say, stop


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/cluster", description=__doc__)
    parser.add_argument("--instance", default="kubernetes", help="name: several can run side by side")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="build it where it is not built yet, start it, return when it answers")
    up.add_argument(
        "--offset", type=int, default=os.environ.get("BRIGADE_PORT_OFFSET") or "0", help="added to every port"
    )
    up.add_argument("--node", action="store_true", help="with a node that runs pods: takes root, one on a machine")
    served = commands.add_parser("metrics", help="serve external metrics for autoscalers, by prometheus-adapter")
    served.add_argument("--prometheus", required=True, metavar="URL", help="where Prometheus is")
    served.add_argument("--rules", required=True, metavar="FILE", help="the adapter's configuration", type=Path)
    commands.add_parser("down", help="end it and delete what was in it")
    commands.add_parser("status", help="what runs; exit code 1 if something does not")
    built = commands.add_parser(
        "build", help="build it, as the first `up` does: ten minutes of a processor, 4 GB of Go's caches"
    )
    built.add_argument("--node", action="store_true", help="the node's servers and the images of its pods, too")
    return parser.parse_args(words)


def main() -> None:
    asked = arguments()
    try:
        run(asked)
    except (binary.BuildError, ClusterError, EngineError, ClientsError, *images.FAILURES) as error:
        stop(error)


def run(asked: argparse.Namespace) -> None:
    cluster = node.found(asked.instance)
    match asked.command:
        case "build":
            say(f"it is {binary.build()}")
            if asked.node:
                say(f"the node is {binary.build(binary.NODE)}, with {' and '.join(map(str, archives()))}")
        case "up":
            if asked.node:
                cluster = with_node(asked.instance)
            else:
                cluster.up(binary.build(), control_plane.ports(asked.offset))
            say(f"Kubernetes answers; export KUBECONFIG={cluster.kubeconfig}")
        case "down":
            say(f"{asked.instance} is down" if cluster.down() else f"there is no cluster {asked.instance}")
        case "metrics":
            there(cluster)
            metrics.serve(cluster, binary.build(), prometheus=asked.prometheus, rules=asked.rules)
            say("external metrics are served")
        case _:
            status(cluster)


def with_node(name: str) -> node.WithNode:
    if why := node.missing():
        raise ClusterError(why)
    program, programs, pods = binary.build(), binary.build(binary.NODE), archives()
    cluster = node.WithNode(name)
    cluster.up(program, control_plane.ports(0))
    cluster.node_up(programs, pods)
    return cluster


def there(cluster: Cluster) -> None:
    if not cluster.processes():
        stop(f"there is no cluster {cluster.name}: scripts/cluster up")


def status(cluster: Cluster) -> None:
    there(cluster)
    processes = cluster.processes()
    for name, process in processes.items():
        alive = process.process()
        told = f"pid {process.pid}, {alive.memory_info().rss >> 20} MB" if alive else f"ended: {cluster.log(name)}"
        print(f"{name:24} {told}")
    if not cluster.answers():
        stop("the API server does not answer")
    print(f"\nexport KUBECONFIG={cluster.kubeconfig}")
    if not all(process.process() for process in processes.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
