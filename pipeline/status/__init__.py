"""`brigade status`: what is up, how far behind it is, what is wrong, and what to do about it.

`seen` is what can be seen, `looks` and `servers` look at it, `judgement` says what is wrong, `screen` shows it.
"""

from pipeline.status.command import app

__all__ = ["app"]
