import pytest
from pydantic import ValidationError

from pipeline.settings import (
    BridgeSettings,
    DatabaseSettings,
    KafkaSettings,
    LagSettings,
    MaintainSettings,
    WorkerSettings,
    load,
    misspelt,
)
from pipeline.settings_page import PARTS


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_the_defaults_fit_together_and_every_setting_says_what_it_means(part):
    part()
    for name, field in part.model_fields.items():
        assert field.description, name


def test_the_environment_is_read_and_types_are_made(monkeypatch):
    monkeypatch.setenv("BRIGADE_PARTITIONS", "3")
    monkeypatch.setenv("BRIGADE_LAG_EVERY_SECONDS", "0.5")
    settings = load(LagSettings)
    assert (settings.partitions, settings.lag_every_seconds) == (3, 0.5)


@pytest.mark.parametrize(
    ("part", "variable", "value", "reason"),
    [
        (KafkaSettings, "BRIGADE_PARTITIONS", "0", "greater than 0"),
        (KafkaSettings, "BRIGADE_PARTITIONS", "many", "valid integer"),
        (KafkaSettings, "BRIGADE_TOPIC_PREFIX", "a b", "match pattern"),
        (KafkaSettings, "BRIGADE_KAFKA_BOOTSTRAP_SERVERS", "localhost", "host:port"),
        (KafkaSettings, "BRIGADE_LOG_LEVEL", "loud", "'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
        (BridgeSettings, "BRIGADE_BRIDGE_ORDINAL", "8", "less than or equal to 7"),
        (BridgeSettings, "BRIGADE_BRIDGE_GROUP", "a/b", "match pattern"),
        (BridgeSettings, "BRIGADE_MQTT_PORT", "65536", "less than or equal to 65535"),
        (WorkerSettings, "BRIGADE_SITE_TIME_ZONE", "Mars/Base", "not a time zone"),
        (WorkerSettings, "BRIGADE_SITE_TIME_ZONE", "../etc/passwd", "not a time zone"),
        (WorkerSettings, "BRIGADE_PAST_LIMIT_DAYS", "-1", "greater than 0"),
    ],
)
def test_a_wrong_setting_is_told_by_variable_value_and_reason(part, variable, value, reason, monkeypatch, capsys):
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as stopped:
        load(part)
    line, hint, *_ = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2
    assert line.startswith(f"{variable}={value}: ")
    assert reason in line
    assert "docs/settings.md" in hint


def test_every_wrong_setting_is_told_at_once(monkeypatch, capsys):
    monkeypatch.setenv("BRIGADE_PARTITIONS", "0")
    monkeypatch.setenv("BRIGADE_REPLICATION_FACTOR", "0")
    with pytest.raises(SystemExit):
        load(KafkaSettings)
    told = capsys.readouterr().err
    assert "BRIGADE_PARTITIONS=0" in told
    assert "BRIGADE_REPLICATION_FACTOR=0" in told


@pytest.mark.parametrize("url", ["nonsense", "postgresql://u:hush@host:54x2/b", "postgres:/u:hush@h", ""])
def test_a_wrong_database_address_is_refused_without_its_password(url, monkeypatch, capsys):
    monkeypatch.setenv("BRIGADE_DATABASE_URL", url)
    with pytest.raises(SystemExit):
        load(DatabaseSettings)
    told = capsys.readouterr().err
    assert told.startswith("BRIGADE_DATABASE_URL: not a PostgreSQL address")
    assert "hush" not in told


@pytest.mark.parametrize(
    ("part", "wrong", "named"),
    [
        (WorkerSettings, {"past_limit_days": 89}, "BRIGADE_RAW_RETENTION_DAYS"),
        (WorkerSettings, {"minute_retention_days": 37}, "BRIGADE_MINUTE_RETENTION_DAYS"),
        (MaintainSettings, {"compress_after_days": 30}, "BRIGADE_COMPRESS_AFTER_DAYS"),
        (KafkaSettings, {"min_insync_replicas": 2}, "BRIGADE_MIN_INSYNC_REPLICAS"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_by_name(part, wrong, named):
    with pytest.raises(ValidationError, match=named):
        part(**wrong)


def test_settings_just_inside_the_limits_are_fine():
    MaintainSettings(past_limit_days=30, compress_after_days=31, raw_retention_days=32, minute_retention_days=38)


def test_a_misspelt_variable_is_told():
    names = ["BRIGADE_PAST_LIMT_DAYS", "BRIGADE_PAST_LIMIT_DAYS", "BRIGADE_GATEWAY_PORT", "BRIGADE_CACHE", "PATH"]
    (line,) = misspelt(names)
    assert line == "BRIGADE_PAST_LIMT_DAYS is no setting and is ignored; did you mean BRIGADE_PAST_LIMIT_DAYS?"
    assert misspelt(["BRIGADE_SECRETS"]) == []
    assert misspelt(["BRIGADE_SECRET"]) == [
        "BRIGADE_SECRET is no setting and is ignored; did you mean BRIGADE_SECRETS?"
    ]
