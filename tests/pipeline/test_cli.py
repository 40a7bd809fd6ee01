import re
import subprocess
import sys

import pytest

from pipeline import cli


def test_help_names_every_command_and_imports_none_of_them():
    code = (
        "import sys; from pipeline import cli; sys.argv = ['brigade', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "print([name for name in sys.modules if name.startswith('pipeline.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    *told, imported = done.stdout.splitlines()
    assert all(any(name in line for line in told) for name in cli.COMMANDS)
    assert imported == "['pipeline.cli']"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(brigade, name):
    done = brigade(name, "--help")
    assert done.returncode == 0
    assert f"Usage: brigade {name}" in done.stdout
    assert "--install-completion" not in done.stdout


def test_an_unknown_command_is_a_usage_error(brigade):
    assert brigade("frobnicate").returncode == 2


def test_topics_are_created_and_checked(brigade, topics):
    settings = {
        "BRIGADE_KAFKA_BOOTSTRAP_SERVERS": topics.settings.kafka_bootstrap_servers,
        "BRIGADE_TOPIC_PREFIX": topics.settings.topic_prefix,
    }
    done = brigade("topics", "check", **settings, BRIGADE_PARTITIONS="3")
    assert (done.returncode, done.stdout) == (0, "all topics are as declared\n")
    done = brigade("topics", "check", **settings, BRIGADE_PARTITIONS="4")
    assert done.returncode == 1
    assert "set BRIGADE_PARTITIONS=3" in done.stderr
    done = brigade("topics", "create", **settings, BRIGADE_PARTITIONS="3", BRIGADE_READINGS_RETENTION_HOURS="24")
    assert (done.returncode, done.stdout) == (0, f"topic {topics.raw}: retention.ms=86400000, was 604800000\n")


def test_migrate_says_what_it_did(brigade, empty_database):
    done = brigade("migrate", BRIGADE_DATABASE_URL=empty_database)
    assert done.returncode == 0, done.stderr
    assert "0001_readings" in done.stdout.splitlines()
    done = brigade("migrate", BRIGADE_DATABASE_URL=empty_database)
    assert (done.returncode, done.stdout) == (0, "nothing to do\n")


def test_a_database_that_is_away_is_one_line_and_no_traceback(brigade):
    done = brigade("sites", "list", BRIGADE_DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert done.returncode == 1
    assert done.stderr.startswith("brigade: the database at BRIGADE_DATABASE_URL: ")
    assert "Traceback" not in done.stderr


def test_a_database_without_tables_names_the_command_that_makes_them(brigade, empty_database):
    done = brigade("sites", "list", BRIGADE_DATABASE_URL=empty_database)
    assert (done.returncode, done.stderr) == (
        1,
        "brigade: the database has no tables yet: `brigade migrate` makes them\n",
    )


def test_settings_are_shown_and_secrets_are_not(brigade):
    done = brigade("settings", BRIGADE_PARTITIONS="3", BRIGADE_MQTT_PASSWORD="hush")
    assert done.returncode == 0
    assert "BRIGADE_PARTITIONS=3   (default 12)\n    Partitions of `readings.raw`" in done.stdout
    assert "hush" not in done.stdout


def test_a_wrong_setting_ends_with_two(brigade):
    done = brigade("topics", "check", BRIGADE_PARTITIONS="0")
    assert done.returncode == 2
    assert done.stderr.startswith("BRIGADE_PARTITIONS=0: ")


def test_a_site_is_added_listed_and_named(brigade, database):
    done = brigade("sites", "add", "seoul-1", "--time-zone", "Asia/Seoul", BRIGADE_DATABASE_URL=database)
    assert done.returncode == 0, done.stderr
    done = brigade("sites", "set", "seoul-1", "--display-name", "Seoul, Mapo", BRIGADE_DATABASE_URL=database)
    assert done.returncode == 0, done.stderr
    done = brigade("sites", "list", BRIGADE_DATABASE_URL=database)
    assert re.split("  +", done.stdout.splitlines()[1]) == ["seoul-1", "Asia/Seoul", "0", "Seoul, Mapo"]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["sites", "add", "a/b"], 2, "1 to 64 of"),
        (["sites", "add", "x", "--time-zone", "Mars/Base"], 2, "Mars/Base is not a time zone"),
        (["sites", "set", "nowhere", "--time-zone", "UTC"], 1, "no site nowhere"),
        (["sites", "set", "nowhere"], 2, "nothing to set"),
        (["devices", "move", "ghost", "nowhere"], 1, "no device ghost"),
    ],
)
def test_what_cannot_be_is_refused_in_words(brigade, database, arguments, code, told):
    done = brigade(*arguments, BRIGADE_DATABASE_URL=database)
    assert done.returncode == code
    assert told in done.stderr
