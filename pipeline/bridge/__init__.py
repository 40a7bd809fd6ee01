"""MQTT to Kafka, payload bytes untouched: `python -m pipeline.bridge`.

What arrives within a linger is a flush: a pack for each partition it touches. When Kafka has all packs of a flush,
and those of the flushes before it, its messages are acknowledged to the broker, in order. Until then the broker
keeps them for us, in a session that outlives the process.

Read `forwarding` (the path of a message), `windows` (what may be acknowledged when), `producer` (Kafka),
`process` (both servers come and go).
"""
