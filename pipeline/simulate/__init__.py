"""`brigade simulate`: a restaurant's sensors, as they behave, on a real MQTT broker.

`restaurant` is how things behave, `messages` what a sensor's firmware makes of it, `device` a device's life on the
network, `connection` its MQTT, `ledger` the file that `brigade verify` compares with the database.
"""

from pipeline.simulate.command import app

__all__ = ["app"]
