#!/bin/bash
# Run once by the postgres image, on a new primary: the roles, a replication slot for each node, and access for replicas.
set -euo pipefail

psql --no-psqlrc --username postgres --dbname postgres --set ON_ERROR_STOP=1 \
    --set replicator="$REPLICATOR_PASSWORD" --set pgpilot="$PGPILOT_PASSWORD" --set app="$APP_PASSWORD" <<'END'
CREATE ROLE replicator LOGIN REPLICATION PASSWORD :'replicator' IN ROLE pg_monitor, pg_checkpoint;
-- For pg_rewind.
GRANT EXECUTE ON FUNCTION pg_ls_dir(text, boolean, boolean), pg_stat_file(text, boolean), pg_read_binary_file(text),
    pg_read_binary_file(text, bigint, bigint, boolean) TO replicator;
CREATE ROLE pgpilot LOGIN PASSWORD :'pgpilot' IN ROLE pg_monitor;
GRANT SELECT ON pg_catalog.pg_shadow TO pgpilot;
CREATE ROLE pgpilot_failover LOGIN REPLICATION PASSWORD :'pgpilot' IN ROLE pg_monitor, pg_signal_backend;
GRANT EXECUTE ON FUNCTION pg_promote, pg_reload_conf TO pgpilot_failover;
GRANT ALTER SYSTEM ON PARAMETER primary_conninfo, default_transaction_read_only TO pgpilot_failover;
GRANT CREATE ON DATABASE postgres TO pgpilot_failover;
CREATE ROLE app LOGIN PASSWORD :'app';
GRANT CREATE ON SCHEMA public TO app;
SELECT pg_create_physical_replication_slot(node) FROM unnest(ARRAY['pg1', 'pg2', 'pg3']) AS node;
END

# For the day when this node is a standby. It is beside the data directory, which a base backup replaces.
password=${REPLICATOR_PASSWORD//\\/\\\\}
(umask 077 && echo "*:*:*:replicator:${password//:/\\:}" >"$(dirname "$PGDATA")/passfile")

echo "host replication replicator all scram-sha-256" >>"$PGDATA/pg_hba.conf"
