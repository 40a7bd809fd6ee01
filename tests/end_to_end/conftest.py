"""One stack for all tests of this folder; it is theirs alone, since they end its parts."""

import os
import subprocess
from collections.abc import Iterator

import pytest

from deploy.local.layout import REPOSITORY
from deploy.local.stack import Stack
from tests.end_to_end.load import BRIGADE
from tests.end_to_end.stacks import ASKS_OFTEN, SHORT_WAITS, own_stack


@pytest.fixture(scope="package")
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Started by the project's own supervisor, as `scripts/up` does."""
    if name := os.environ.get(
        "BRIGADE_TEST_STACK"
    ):  # an instance that is up and may be broken, to try one test quickly
        yield Stack.attach(name)
        return
    if "BRIGADE_TEST_INSTANCE" not in os.environ:
        missing = "BRIGADE_TEST_INSTANCE is not set: scripts/test knows where the servers are, and starts more of them"
        pytest.fail(missing) if os.environ.get("BRIGADE_TEST_ALL") == "1" else pytest.skip(missing)
    with own_stack("end-to-end", SHORT_WAITS | ASKS_OFTEN, keep_logs=lambda: request.session.testsfailed > 0) as own:
        yield own


@pytest.fixture
def brigade(stack: Stack):
    """The command, as a person on this stack types it."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BRIGADE, *words],
            cwd=REPOSITORY,
            env=os.environ | stack.env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run
