# shellcheck shell=dash
# The order of the steps of each hook. local.sh, systemd-ssh.sh and docker.sh read this file and say how to reach a node:
#
#   on_node FUNCTION [ARGUMENT]  runs a function of node.sh or rejoin.sh where the node's files are, as the server's account
#   stop_server SECONDS          a fast shutdown; after so long, the end by force; returns when that is proven
#   stop_server_cleanly          a fast shutdown that is waited for for $DEMOTE_WAIT seconds; fails if it does not end
#   start_server                 starts it; that it accepts connections need not be waited for

: "${PGPILOT_HOOK:?is not set: this program is called by pgpilot}" "${PGPILOT_NODE:?is not set}"
: "${PGPILOT_NODE_HOST:?is not set}" "${PGPILOT_NODE_PORT:?is not set}" "${PGPILOT_EPOCH:?is not set}"

say() { echo "pgpilot $PGPILOT_HOOK $PGPILOT_NODE: $*" >&2; }

# ---- Settings that seldom need to be changed; one by one, in the settings file ----

# Beside the data directory, owned by the server's account: what has to be remembered between two calls.
: "${WORK:=$PGDATA.pgpilot}"
# Who the node is in the primary's pg_stat_replication, and in synchronous_standby_names.
: "${APPLICATION_NAME:=$PGPILOT_NODE}"
# More of the connection to the primary, for streaming, too: "passfile='/var/lib/postgresql/.pgpass' sslmode='require'".
: "${CONNINFO:=}"
# The directory of PostgreSQL's programs; empty: they are on PATH.
: "${PGBIN:=}"
# Options the server is started with, if its configuration is not in its data directory:
# "-c config_file=/etc/postgresql/17/main/postgresql.conf".
: "${SERVER_OPTIONS:=}"
# Every node has a replication slot named like it; "no": slots are not used.
: "${SLOTS:=yes}" "${SLOT_PREFIX:=}"
# "auto", or "copy": a new base backup in any case.
: "${REJOIN_BY:=auto}"
# Of the data directory: what is the node's own and must not be replaced by the primary's.
: "${KEPT_FILES:=*.conf *.crt *.key *.pem}"
: "${PG_REWIND_OPTIONS:=}" "${PG_BASEBACKUP_OPTIONS:=}"
# Seconds. How long a server that is fenced may take to shut down by itself, in which time it still sends WAL.
: "${FENCE_GRACE:=2}"
# How long a server that is demoted may take.
: "${DEMOTE_WAIT:=60}"
# Until the primary can be asked; until it has made a checkpoint; until the node accepts connections, or makes progress.
: "${PRIMARY_WAIT:=30}" "${CHECKPOINT_WAIT:=60}" "${START_WAIT:=600}"
# Without stream and progress after so long, a new base backup is taken.
: "${STREAM_WAIT:=60}"
# How long to wait for another hook that is at work on the node.
: "${LOCK_WAIT:=10}"

# Which call of a hook this is.
# shellcheck disable=SC2034 # node_program reads it by name
CALL=$(uname -n)-$$-$(date +%s)

FACTS="CALL PGPILOT_HOOK PGPILOT_EPOCH PGPILOT_NODE PGPILOT_NODE_HOST PGPILOT_NODE_PORT PGPILOT_PRIMARY PGPILOT_PRIMARY_HOST
PGPILOT_PRIMARY_PORT"
SETTINGS="PGDATA WORK REPLICATION_USER APPLICATION_NAME CONNINFO PGBIN SERVER_OPTIONS SLOTS SLOT_PREFIX REJOIN_BY
KEPT_FILES PG_REWIND_OPTIONS PG_BASEBACKUP_OPTIONS PRIMARY_WAIT CHECKPOINT_WAIT START_WAIT STREAM_WAIT LOCK_WAIT"

# Prints the program for a shell at the node: what to know, both files, and the call of one function. Nothing that it runs
# may read its standard input: the rest of the program would be gone.
node_program() {
    for name in $FACTS $SETTINGS; do
        eval "value=\${$name:-}"
        # shellcheck disable=SC2154 # by eval
        printf "%s='%s'\n" "$name" "$(printf %s "$value" | sed "s/'/'\\\\''/g")"
    done
    cat "$HERE/node.sh" "$HERE/rejoin.sh"
    echo "enter $* </dev/null"
}

main() {
    case $PGPILOT_HOOK in
    fence) fence ;;
    demote) demote ;;
    rejoin) rejoin ;;
    # The place for a veto: whatever else has to be true before this node becomes the primary.
    pre_promote) ;;
    # The place for what has to know of the new primary. It now refuses older orders that are still on their way.
    post_promote) on_node begin ;;
    *)
        say "this hook is not known"
        exit 64
        ;;
    esac
}

# From now on the node accepts no commit.
fence() {
    status=0
    on_node begin || status=$?
    [ $status -ne 3 ] || exit 3
    stop_server "$FENCE_GRACE"
    # The proof is given already; this is for a start by mistake. A broken disk must not prevent a fence.
    on_node close_data || say "fenced, but nothing keeps it from being a primary if it is started by hand"
    say "fenced"
}

# A clean shutdown: the node can follow without pg_rewind.
demote() {
    on_node begin
    stop_server_cleanly
    on_node prove_clean_end
    say "shut down cleanly"
}

# The node streams from the new primary. If it is to follow itself, fence or demote are undone.
rejoin() {
    : "${PGPILOT_PRIMARY:?is not set}" "${PGPILOT_PRIMARY_HOST:?is not set}" "${PGPILOT_PRIMARY_PORT:?is not set}"
    on_node begin
    if [ "$PGPILOT_PRIMARY" = "$PGPILOT_NODE" ]; then
        reopen
        return
    fi
    on_node check_primary
    if on_node streams; then
        on_node finish
        say "streams from $PGPILOT_PRIMARY already"
        return
    fi
    stop_server "$FENCE_GRACE"
    on_node prepare
    if ! start_server || ! on_node await_streaming; then
        say "it does not stream: once more with a new base backup"
        stop_server "$FENCE_GRACE"
        on_node prepare_anew
        start_server
        on_node await_streaming
    fi
    on_node finish
}

reopen() {
    if on_node is_writable; then
        say "accepts writes already"
        return
    fi
    stop_server "$FENCE_GRACE"
    on_node reopen
    start_server
    on_node await_writable
    say "is a primary again"
}
