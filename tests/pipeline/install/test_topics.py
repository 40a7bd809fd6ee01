"""`brigade install topics` waits for Kafka, `brigade install wait --topics` for the topics."""

import socket


def settings(topics, **more):
    ours = topics.settings
    return {
        "BRIGADE_KAFKA_BOOTSTRAP_SERVERS": ours.kafka_bootstrap_servers,
        "BRIGADE_TOPIC_PREFIX": ours.topic_prefix,
        "BRIGADE_PARTITIONS": str(ours.partitions),
        "BRIGADE_INSTALL_WAIT_SECONDS": "0.1",
    } | more


def test_topics_as_declared_are_enough(brigade, topics):
    none = settings(topics, BRIGADE_TOPIC_PREFIX=f"{topics.settings.topic_prefix}2-")
    told = brigade("install", "wait", "--topics", **none)
    assert told.returncode == 1
    assert "2-readings.raw does not exist" in told.stderr
    same = settings(topics)
    assert brigade("install", "topics", **same).returncode == 0
    assert brigade("install", "wait", "--topics", **same).returncode == 0


def test_what_cannot_be_changed_is_told_at_once(brigade, topics):
    done = brigade("install", "topics", **settings(topics, BRIGADE_PARTITIONS="4", BRIGADE_INSTALL_WAIT_SECONDS="600"))
    assert done.returncode == 1
    assert "set BRIGADE_PARTITIONS=3" in done.stderr


def test_kafka_that_is_away_is_waited_for_and_told(brigade, topics, monkeypatch):
    monkeypatch.setattr("pipeline.topics._SECONDS", 0.5)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        away = f"127.0.0.1:{nobody.getsockname()[1]}"
        done = brigade("install", "topics", **settings(topics, BRIGADE_KAFKA_BOOTSTRAP_SERVERS=away))
    assert done.returncode == 1
    assert "BRIGADE_KAFKA_BOOTSTRAP_SERVERS" in done.stderr
    assert "BRIGADE_INSTALL_WAIT_SECONDS" in done.stderr
