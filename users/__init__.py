"""Accounts, sessions, tokens, roles: who may do what. `python -m users.app` serves it, behind the gateway alone.

Read `inside` → `callers` → `signing_in` → `sessions` → `tokens`: how a password becomes a token, and a token a caller.
Then `people`, `invitations`, `sites`, `api_keys`, `me`: a module for each page of the API, its SQL on top.
"""
