"""From a sensor's message to a row.

Read in this order: `readings` (what a message means), `packs` (many messages in one Kafka record),
`bridge` (MQTT to Kafka), `agents` (Kafka to the sink), `sink` (one transaction).
"""
