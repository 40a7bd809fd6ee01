"""`scripts/dashboards`: writes dashboards/<folder>/<uid>.json; with --check only says whether they are current."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from grafana import infrastructure, kitchen, operations, services
from grafana.committed import FOLDER

BOARDS: Final = (*operations.BOARDS, *services.BOARDS, *infrastructure.BOARDS, *kitchen.BOARDS)


def files() -> Mapping[Path, str]:
    """What should be there."""
    return {FOLDER / board.folder / f"{board.uid}.json": board.json() for board in BOARDS}


def stale() -> list[Path]:
    """Files that are missing, not current, or no longer wanted."""
    wanted = files()
    unwanted = set(FOLDER.rglob("*.json")) - set(wanted)
    changed = {file for file, text in wanted.items() if not file.exists() or file.read_text() != text}
    return sorted(unwanted | changed)


def main() -> None:
    if sys.argv[1:] == ["--check"]:
        names = [str(file.relative_to(FOLDER)) for file in stale()]
        sys.exit(f"not current: {', '.join(names)}; scripts/dashboards writes them" if names else None)
    for file in stale():
        file.unlink(missing_ok=True)
    for file, text in files().items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


if __name__ == "__main__":
    main()
