"""The public images of public.toml."""

import tomllib
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).parent


def public() -> Mapping[str, Mapping[str, str]]:
    """By table: `build` what our image is built on, `run` what runs beside it."""
    return tomllib.loads((HERE / "public.toml").read_text())


def variable(name: str) -> str:
    """With which docker-compose.yml lets a person choose another image than that of this name."""
    return f"{name.upper().replace('-', '_')}_IMAGE"
