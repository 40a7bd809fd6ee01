"""What a role may do at the gateway. Users has the whole table; tokens bear roles, never permissions."""

from enum import StrEnum
from typing import Final


class Permission(StrEnum):
    READINGS_READ = "readings:read"
    DEAD_LETTERS_READ = "dead_letters:read"
    DEAD_LETTERS_REPLAY = "dead_letters:replay"
    DEVICES_WRITE = "devices:write"
    SYSTEM_READ = "system:read"


_EVERYTHING: Final = frozenset(Permission)
_LOOKING: Final = _EVERYTHING - {Permission.DEAD_LETTERS_REPLAY, Permission.DEVICES_WRITE}

PERMISSIONS: Final = {
    "owner": _EVERYTHING,
    "manager": _EVERYTHING,
    "technician": _EVERYTHING,
    "auditor": _LOOKING,
    "staff": frozenset({Permission.READINGS_READ}),
    "reader": frozenset({Permission.READINGS_READ, Permission.DEAD_LETTERS_READ}),  # an API key that may only read
}
"""A role that is not here may nothing."""
