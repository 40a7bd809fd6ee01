"""How our clients reach Kafka, as each library wants to be told; what the settings say about TLS and accounts."""

from typing import Any

from observability import tls
from pipeline.settings import KafkaSettings


def for_librdkafka(settings: KafkaSettings) -> dict[str, Any]:
    """For confluent-kafka's clients."""
    told: dict[str, Any] = {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "security.protocol": settings.kafka_security_protocol,
    }
    if settings.kafka_by_tls:
        files = {
            "ssl.ca.location": settings.kafka_ssl_ca,
            "ssl.certificate.location": settings.kafka_ssl_cert,
            "ssl.key.location": settings.kafka_ssl_key,
        }
        told |= {name: file for name, file in files.items() if file}
    if settings.kafka_by_account:
        told["sasl.mechanism"] = settings.kafka_sasl_mechanism
        told["sasl.username"], told["sasl.password"] = account(settings)
    return told


def for_aiokafka(settings: KafkaSettings) -> dict[str, Any]:
    """For aiokafka's clients."""
    told: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_bootstrap_servers,
        "security_protocol": settings.kafka_security_protocol,
    }
    if settings.kafka_by_tls:
        told["ssl_context"] = tls.context(settings.kafka_ssl_ca, settings.kafka_ssl_cert, settings.kafka_ssl_key)
    if settings.kafka_by_account:
        told["sasl_mechanism"] = settings.kafka_sasl_mechanism
        told["sasl_plain_username"], told["sasl_plain_password"] = account(settings)
    return told


def account(settings: KafkaSettings) -> tuple[str, str]:
    """User and password; the settings have both where Kafka asks for them."""
    password = settings.kafka_sasl_password
    return settings.kafka_sasl_user or "", password.get_secret_value() if password else ""
