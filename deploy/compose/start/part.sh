#!/usr/bin/env bash
# Starts a part of ours when every secret it needs is there: without one it would take a default, and wait for ever.
# `SECRETS="BRIGADE_… …" part.sh COMMAND…`
set -euo pipefail
for name in ${SECRETS:-}; do
    if [ ! -s "/run/secrets/brigade/$name" ]; then
        echo "The secret $name is missing or empty: the folder with the secrets has it as $READER/$name." >&2
        echo "\`docker compose up -d\` makes it again; if it is empty, delete it first." >&2
        exit 2
    fi
done
exec "$@"
