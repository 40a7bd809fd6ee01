#!/bin/sh
# Alertmanager, with the routes of deploy/alertmanager. Unless ALERTS_ARE_SENT=yes its receivers tell nobody: alerts
# are shown and sent nowhere, for the addresses in that file are examples.
set -eu
if [ "${ALERTS_ARE_SENT:-}" = yes ]; then
    cp /config/alertmanager.yml /tmp/alertmanager.yml
else
    awk '/^route:/ { routes = 1 } routes || /^receivers:/ || /^  - name: /' /config/alertmanager.yml >/tmp/alertmanager.yml
fi
exec alertmanager --config.file=/tmp/alertmanager.yml --storage.path=/data --cluster.listen-address=
