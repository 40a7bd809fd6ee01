"""`brigade`, as a person would call it, without a process of its own."""

import sys
from dataclasses import dataclass

import pytest

from pipeline import cli


@dataclass(frozen=True, slots=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def brigade(monkeypatch, capsys):
    def run(*arguments, **environment):
        monkeypatch.setattr(sys, "argv", ["brigade", *arguments])
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        told, code = capsys.readouterr(), ended.value.code
        if isinstance(code, str):  # as the interpreter does: a text is for stderr, and means 1
            return Done(1, told.out, f"{told.err}{code}\n")
        return Done(code or 0, told.out, told.err)

    return run
