"""`brigade verify`: what was sent against what is stored, and what is stored against itself.

`sent` puts a ledger file of `brigade simulate` beside the tables, `checks` are the questions, in SQL, and what an
answer other than none means; `command` is what a person types.
"""

from pipeline.verify.command import app

__all__ = ["app"]
