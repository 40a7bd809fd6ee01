"""`python -m deploy.cluster.picture`: the picture of docs/deploy/autoscaling.md, of what tests/cluster/node printed."""

import json
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

from deploy.local.layout import REPOSITORY

FOLDER = REPOSITORY / "docs" / "deploy" / "autoscaling"
LAG, RATE, PODS = "#d95f02", "#4e9fd1", "#3d4a59"


def draw(rows: list[dict[str, float]], file: Path) -> None:
    """Lag, rate and workers over time, one below the other."""
    mpl.use("svg")
    mpl.rcParams |= {"svg.hashsalt": "brigade", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    seconds = [row["second"] for row in rows]
    figure, (lag, rate, pods) = plt.subplots(3, 1, sharex=True, figsize=(7, 5.5))
    lag.plot(seconds, [row["lag"] for row in rows], color=LAG)
    lag.set_ylabel("messages behind")
    rate.plot(seconds, [row["rate"] for row in rows], color=RATE)
    rate.set_ylabel("appended a second")
    pods.step(seconds, [row["workers"] for row in rows], where="post", color=PODS, label="wanted")
    pods.step(seconds, [row["ready"] for row in rows], where="post", color=PODS, alpha=0.5, ls="--", label="ready")
    pods.set_ylabel("workers")
    pods.set_xlabel("seconds")
    pods.legend(frameon=False, fontsize=8)
    for axes in (lag, rate, pods):
        axes.set_ylim(bottom=0)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    draw(json.loads((FOLDER / "node.json").read_text()), FOLDER / "node.svg")
