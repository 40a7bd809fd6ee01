import pytest

from pipeline.settings import KafkaSettings
from pipeline.topics import KafkaAwayError, Topics, TopicsError, check, create, partitions, topic_id
from tests.pipeline.deleted_topics import make_again


def other(settings, **changes):
    return settings.model_copy(update=changes)


def test_names_bear_the_prefix():
    topics = Topics(KafkaSettings(topic_prefix="inn-"))
    assert [topics.raw, topics.dead, topics.aggregates_1m, topics.alarms] == [
        "inn-readings.raw",
        "inn-readings.dead",
        "inn-aggregates.1m",
        "inn-alarms",
    ]


def test_created_topics_are_as_declared(topics):
    check(topics.settings)
    assert partitions(topics.settings) == 3


def test_creating_again_changes_nothing(topics):
    before = topic_id(topics.settings, topics.raw)
    assert create(topics.settings) == []
    assert topic_id(topics.settings, topics.raw) == before


def test_a_missing_topic_is_told_with_the_command_that_makes_it(kafka, unique):
    settings = KafkaSettings(kafka_bootstrap_servers=kafka, topic_prefix=f"test-{unique}-")
    with pytest.raises(TopicsError, match=f"topic test-{unique}-readings.raw does not exist: `brigade topics create`"):
        check(settings)
    with pytest.raises(TopicsError, match="does not exist"):
        topic_id(settings, Topics(settings).raw)


def test_another_number_of_partitions_is_refused_and_never_changed(topics):
    with pytest.raises(TopicsError, match="has 3 partitions, BRIGADE_PARTITIONS says 5: set BRIGADE_PARTITIONS=3"):
        create(other(topics.settings, partitions=5))
    assert partitions(topics.settings) == 3


def test_another_retention_is_told_by_check_and_set_by_create(topics):
    shorter = other(topics.settings, readings_retention_hours=1)
    with pytest.raises(TopicsError, match=r"retention.ms=604800000, declared is 3600000: `brigade topics create`"):
        check(shorter)
    assert create(shorter) == [f"topic {topics.raw}: retention.ms=3600000, was 604800000"]
    check(shorter)


def test_more_replicas_than_brokers_is_kafkas_refusal_in_words(kafka, unique):
    settings = KafkaSettings(kafka_bootstrap_servers=kafka, topic_prefix=f"test-{unique}-", replication_factor=9)
    with pytest.raises(TopicsError, match="Kafka refused to create topic"):
        create(settings)


def test_a_topic_made_again_has_another_id(topics):
    before = topic_id(topics.settings, topics.raw)
    make_again(topics.settings, topics.raw)
    assert topic_id(topics.settings, topics.raw) != before


def test_kafka_away_is_no_difference_but_an_outage(monkeypatch):
    monkeypatch.setattr("pipeline.topics._SECONDS", 0.5)
    with pytest.raises(KafkaAwayError, match="BRIGADE_KAFKA_BOOTSTRAP_SERVERS"):
        check(KafkaSettings(kafka_bootstrap_servers="127.0.0.1:1"))
