#!/bin/sh
# shellcheck disable=SC2034 # settings are used elsewhere
#
# Hooks for servers that are processes on this host, of the account that pgpilot runs as: for a developer's cluster.
#
#   fence_command = ["/etc/pgpilot/hooks/local.sh", "/etc/pgpilot/hooks/settings"]
#
# The argument is a file of settings, read as shell text; without it, those below are used.
set -eu

# ---- Settings ----

# The data directory of the node that the hook is about.
PGDATA=/var/lib/postgresql/$PGPILOT_NODE/data
# The role that replicas stream with. README.md says what it needs.
REPLICATION_USER=replicator
# Where the server writes what it has to say.
SERVER_LOG=$PGDATA.log

# shellcheck source=/dev/null
[ $# -eq 0 ] || . "$1"

HERE=$(dirname "$0")
# shellcheck source=config/hooks/common.sh
. "$HERE/common.sh"

on_node() { node_program "$@" | sh -s; }

stop_server() { on_node end_by_force "$1"; }

stop_server_cleanly() {
    on_node end_cleanly "$DEMOTE_WAIT" || {
        say "it has not shut down within $DEMOTE_WAIT s"
        return 1
    }
}

start_server() {
    "${PGBIN:+$PGBIN/}pg_ctl" start -D "$PGDATA" -l "$SERVER_LOG" -o "$SERVER_OPTIONS" -t "$START_WAIT" \
        </dev/null >/dev/null
}

main
