"""Which metrics an expression names."""

import re
from typing import Final

STRINGS: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
MATCHERS: Final = re.compile(r"\{[^}]*\}|\[[^\]]*\]")
LABELS: Final = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
NAMES: Final = re.compile(r"(?<![\w:.])[a-zA-Z_:][\w:]*(?!\s*\()(?![\w:])")
WORDS: Final = {"and", "or", "unless", "offset", "bool", "group_left", "group_right", "inf", "nan"}


def metrics(expr: str) -> set[str]:
    plain = LABELS.sub("", MATCHERS.sub("", STRINGS.sub('""', expr)))
    return {name for name in NAMES.findall(plain) if name.lower() not in WORDS}
