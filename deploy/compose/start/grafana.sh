#!/bin/sh
# Grafana, with the password of its read-only role in the variable that grafana/provisioning names.
set -eu
BRIGADE_GRAFANA_DATABASE_PASSWORD="$(cat /run/secrets/grafana/database_password)"
export BRIGADE_GRAFANA_DATABASE_PASSWORD
exec /run.sh
