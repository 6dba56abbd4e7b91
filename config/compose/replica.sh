#!/bin/bash
# The entry point of a replica: copies the primary when it starts for the first time, then runs the server.
set -euo pipefail

passfile=$(dirname "$PGDATA")/passfile
password=${REPLICATOR_PASSWORD//\\/\\\\}
(umask 077 && echo "*:*:*:replicator:${password//:/\\:}" >"$passfile")

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    # --write-recovery-conf notes the whole connection string, for streaming.
    pg_basebackup --checkpoint fast --write-recovery-conf --slot "$NODE" --pgdata "$PGDATA" --dbname \
        "host=${PRIMARY_HOST:-pg1} port=${PRIMARY_PORT:-5432} user=replicator passfile=$passfile application_name=$NODE"
    chmod 0700 "$PGDATA"
fi

# Should this node become the primary, the others find their slots.
add_slots() {
    until pg_isready --quiet --username postgres; do sleep 1; done
    psql --no-psqlrc --quiet --username postgres --dbname postgres --output /dev/null <<'END'
SELECT pg_create_physical_replication_slot(node)
FROM unnest(ARRAY['pg1', 'pg2', 'pg3']) AS node
WHERE node NOT IN (SELECT slot_name FROM pg_replication_slots);
END
}
add_slots &

exec postgres -c cluster_name="$NODE" -c wal_log_hints=on -c wal_receiver_timeout=4s \
    -c max_standby_streaming_delay=2s "$@"
