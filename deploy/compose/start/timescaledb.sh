#!/bin/sh
# PostgreSQL with TimescaleDB, of any image that has both: a new cluster in an empty volume, then the server.
set -eu
PATH="$PATH:/usr/lib/postgresql/17/bin"

if [ ! -s /data/pg/PG_VERSION ]; then
    rm -rf /data/pg.unfinished # of a first start that was killed
    initdb --pgdata=/data/pg.unfinished --username=postgres --auth=scram-sha-256 \
        --pwfile=/run/secrets/postgres/POSTGRES_PASSWORD --encoding=UTF8 --locale-provider=builtin --locale=C.UTF-8 \
        --data-checksums
    mv /data/pg.unfinished /data/pg
fi
exec postgres -D /data/pg -c config_file=/config/postgresql.conf -c hba_file=/config/pg_hba.conf
