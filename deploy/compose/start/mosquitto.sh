#!/bin/sh
# Mosquitto 2.1, of any image that has its plugins somewhere below /usr/lib.
set -eu
plugin="$(find /usr/lib /usr/local/lib -name mosquitto_persist_sqlite.so 2>/dev/null | head -n 1)"
if [ -z "$plugin" ]; then
    echo "This image has no mosquitto_persist_sqlite.so: MOSQUITTO_IMAGE has to be Mosquitto 2.1 or newer." >&2
    exit 1
fi
sed "s#@plugins@#${plugin%/*}#" /config/mosquitto.conf >/tmp/mosquitto.conf
exec mosquitto -c /tmp/mosquitto.conf
