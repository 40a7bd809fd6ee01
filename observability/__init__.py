"""The only Python the services share: logs, the health port, the measuring of requests. It imports nothing of ours."""
