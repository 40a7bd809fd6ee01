"""The only Python the services share: logs and the health port. It imports nothing of ours."""
