"""Every text is there in both languages, and says the same things."""

import json
import re

import pytest

from deploy.local.layout import REPOSITORY
from gateway.dead_letters import Reason

SOURCES = REPOSITORY / "gateway" / "pages" / "src"


def catalogue(language):
    def once(pairs):
        assert len(dict(pairs)) == len(pairs), f"{language}.json has a key twice"
        return dict(pairs)

    return json.loads((SOURCES / "texts" / f"{language}.json").read_text(), object_pairs_hook=once)


def placeholders(text):
    return sorted(re.findall(r"\{(\w+)\}", text))


@pytest.fixture(scope="module")
def source():
    return "\n".join(path.read_text() for path in SOURCES.rglob("*.ts*"))


def test_both_catalogues_have_the_same_texts_in_the_same_order():
    assert list(catalogue("en")) == list(catalogue("ko"))


def test_texts_name_the_same_values():
    english, korean = catalogue("en"), catalogue("ko")
    assert {key: placeholders(text) for key, text in english.items()} == {
        key: placeholders(text) for key, text in korean.items()
    }


def test_no_text_is_left_untranslated():
    same = {key for key, text in catalogue("en").items() if catalogue("ko")[key] == text}
    assert same == {"about", "device.numbered", "metric.co2_ppm"}


def test_every_text_is_used(source):
    literal = set(re.findall(r"[\"`]([a-z][\w.-]*)[\"`]", source))
    families = re.findall(r"`([a-z.]+\.)\$\{", source)
    families += [f"{name}." for name in re.findall(r'named\("(\w+)"', source)]
    assert not {key for key in catalogue("en") if key not in literal and not key.startswith(tuple(families))}


def test_every_reason_of_a_refusal_has_its_words():
    assert {f"reason.{reason}" for reason in Reason} <= set(catalogue("en"))
