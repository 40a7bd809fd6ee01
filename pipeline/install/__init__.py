"""`brigade install`: what the parts need on their servers before they start; each command is safe to run again.

`database` makes roles and databases, `broker` Mosquitto's accounts; `waiting` is patient with servers that start at the
same time; `command` is what a person or a job types.
"""

from pipeline.install.command import app

__all__ = ["app"]
