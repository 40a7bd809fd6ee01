"""What each role may do in its site: the one table of it."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Role(StrEnum):
    OWNER = "owner"
    MANAGER = "manager"
    STAFF = "staff"
    AUDITOR = "auditor"
    TECHNICIAN = "technician"
    READER = "reader"  # of keys alone


class MemberRole(StrEnum):
    """What a person can be."""

    OWNER = "owner"
    MANAGER = "manager"
    STAFF = "staff"
    AUDITOR = "auditor"
    TECHNICIAN = "technician"


class Permission(StrEnum):
    READINGS_READ = "readings:read"
    DEAD_LETTERS_READ = "dead_letters:read"
    DEAD_LETTERS_REPLAY = "dead_letters:replay"
    DEVICES_WRITE = "devices:write"
    PEOPLE_READ = "people:read"
    PEOPLE_WRITE = "people:write"
    SITES_WRITE = "sites:write"
    KEYS_WRITE = "keys:write"
    AUDIT_READ = "audit:read"


class Scope(StrEnum):
    """What an API key may do."""

    READ = "read"
    WRITE = "write"


P = Permission

PERMISSIONS: Final[Mapping[Role, frozenset[Permission]]] = {
    Role.OWNER: frozenset(Permission),
    Role.MANAGER: frozenset(Permission) - {P.SITES_WRITE, P.AUDIT_READ},
    Role.STAFF: frozenset({P.READINGS_READ}),
    Role.AUDITOR: frozenset({P.READINGS_READ, P.DEAD_LETTERS_READ, P.PEOPLE_READ, P.AUDIT_READ}),
    Role.TECHNICIAN: frozenset({P.READINGS_READ, P.DEAD_LETTERS_READ, P.DEAD_LETTERS_REPLAY, P.DEVICES_WRITE}),
    Role.READER: frozenset({P.READINGS_READ, P.DEAD_LETTERS_READ}),
}

OF_SCOPE: Final = {Scope.READ: Role.READER, Scope.WRITE: Role.TECHNICIAN}

ONLY_OWNERS_MAKE: Final = frozenset({Role.OWNER, Role.MANAGER})


def may(role: Role, permission: Permission) -> bool:
    return permission in PERMISSIONS[role]


def may_give(role: Role, given: Role) -> bool:
    """Whether one who is `role` may make somebody `given`, or take that from them."""
    return may(role, P.PEOPLE_WRITE) and (role is Role.OWNER or given not in ONLY_OWNERS_MAKE)
