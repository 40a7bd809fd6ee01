"""Kafka's jars, resolved by Maven from kafka/pom.xml into the cache."""

import hashlib
import shutil
import subprocess
from pathlib import Path

from deploy.local import roots
from deploy.local.say import say

PATIENCE = ("-Dmaven.wagon.rto=60000", "-Daether.connector.requestTimeout=60000")
"""It would wait half an hour for a server that has fallen silent; each of its versions has another name for that."""
POM = Path(__file__).parent / "kafka" / "pom.xml"


class JarsError(Exception):
    """Maven could not bring Kafka."""


def folder(cache: Path) -> Path:
    return cache / f"kafka-{hashlib.sha256(POM.read_bytes()).hexdigest()[:8]}"


def make(cache: Path, root: Path) -> Path:
    """Return the folder with the jars; ask Maven for them if it is missing."""
    jars = folder(cache)
    if jars.exists():
        return jars
    say("fetching Kafka by Maven (once)")
    unfinished = jars.with_suffix(".unfinished")
    roots.remove(unfinished)
    unfinished.mkdir(parents=True)
    if shutil.which("mvn"):
        maven = ["mvn", "-f", str(POM), f"-DoutputDirectory={unfinished}"]
    else:
        maven = _maven_inside(root, unfinished)
    goal = ("-B", "-q", *PATIENCE, "dependency:copy-dependencies")
    for _ in range(3):
        done = subprocess.run([*maven, *goal], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
    else:
        raise JarsError(f"Maven could not fetch Kafka:\n{done.stdout}{done.stderr}")
    unfinished.rename(jars)
    return jars


def _maven_inside(root: Path, output: Path) -> list[str]:
    """The Debian root's Maven, with this machine's network and the person's own settings and repository."""
    own = Path.home() / ".m2"
    own.mkdir(parents=True, exist_ok=True)
    names = [
        file for file in ("/etc/resolv.conf", "/etc/hosts") if Path(file).exists() and Path(str(root) + file).exists()
    ]
    return [
        "bwrap", "--die-with-parent", "--ro-bind", str(root), "/",
        "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/run",
        "--tmpfs", "/tmp",  # noqa: S108  its own
        *(word for file in names for word in ("--ro-bind", str(Path(file).resolve()), file)),
        "--tmpfs", "/mnt", "--bind", str(own), "/mnt/.m2", "--bind", str(output), "/mnt/jars",
        "--ro-bind", str(POM), "/mnt/pom.xml",
        "--setenv", "HOME", "/mnt", "--unsetenv", "JAVA_HOME", "--setenv", "PATH", "/usr/bin:/bin", "--chdir", "/mnt",
        "mvn", "-Duser.home=/mnt", "-f", "/mnt/pom.xml", "-DoutputDirectory=/mnt/jars",
    ]  # fmt: skip
