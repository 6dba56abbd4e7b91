# shellcheck shell=dash disable=SC2015,SC2034,SC2119,SC2120,SC2153
# What the hooks do where a server is: on its host, or in a container with its files. common.sh sends this text to a
# shell there, after the facts and the settings as assignments, and before the call of one of these functions.
#
# Every function may be called again, also after having been interrupted. What has to be remembered until then is in
# $WORK, beside the data directory, because pg_rewind and base backups replace what is within.
#
# Sources: PostgreSQL's documentation of pg_controldata, and "Streaming Replication Protocol" (IDENTIFY_SYSTEM,
# TIMELINE_HISTORY).

say() { echo "pgpilot $PGPILOT_HOOK $PGPILOT_NODE: $*" >&2; }

fail() {
    say "$*"
    exit 1
}

# Refuses an order that is older than one that was carried out here: it belongs to a decision that is no longer true,
# and may have been on its way for long. Status 3 says so.
enter() {
    umask 077
    mkdir -p "$WORK" || fail "cannot make the directory $WORK; set WORK to one that this account can write to"
    if command -v flock >/dev/null; then
        exec 9<"$WORK"
        # Who was given up may still be at work here. A fence waits for nobody: the others start no server.
        [ "$PGPILOT_HOOK" != fence ] || LOCK_WAIT=1
        flock -w "$LOCK_WAIT" 9 || [ "$PGPILOT_HOOK" = fence ] ||
            fail "another hook has been at work on this node for $LOCK_WAIT s"
    fi
    last=$(cat "$WORK/epoch" 2>/dev/null || echo 0)
    if [ "$PGPILOT_EPOCH" -lt "$last" ]; then
        say "refused: this order is of epoch $PGPILOT_EPOCH, epoch $last has been here already"
        exit 3
    fi
    if [ "$PGPILOT_EPOCH" -gt "$last" ]; then
        echo "$PGPILOT_EPOCH" >"$WORK/epoch.new" && mv "$WORK/epoch.new" "$WORK/epoch" || fail "cannot write in $WORK"
    fi
    if [ "$1" != begin ] && [ "$PGPILOT_HOOK" != fence ]; then
        [ "$(cat "$WORK/owner" 2>/dev/null)" = "$CALL" ] || fail "given up: another hook for this node has begun"
    fi
    "$@"
}

# The first of every hook. Whatever earlier one still runs goes no further: it would start a server that is being rewound.
begin() { echo "$CALL" >"$WORK/owner" || fail "cannot write in $WORK"; }

# ---- The server's processes ----

# Their ids. A server works in its data directory, and so do its children, also those whose postmaster was killed.
server_processes() {
    place=$(cd "$PGDATA" 2>/dev/null && pwd -P) || return 0
    if [ -d /proc/self ]; then
        # shellcheck disable=SC2012 # the paths are of one form
        for pid in $(ls -ld /proc/[0-9]*/cwd 2>/dev/null | awk -v end="/cwd -> $place" '
            substr($0, length($0) - length(end) + 1) == end {
                path = substr($0, 1, length($0) - length(end)); sub(".*/", "", path); print path
            }'); do
            read -r name <"/proc/$pid/comm" || continue
            case $name in postgres | postmaster) echo "$pid" ;; esac
        done 2>/dev/null
    else
        pid=$(postmaster_id) && kill -0 "$pid" 2>/dev/null && echo "$pid"
    fi
    return 0
}

postmaster_id() { sed -n 1p "$PGDATA/postmaster.pid" 2>/dev/null | grep -E '^[0-9]+$'; }

no_server_left() { [ -z "$(server_processes)" ]; }

# Asks for a fast shutdown, which sends replicas all there is, and waits for it for so many seconds.
end_cleanly() {
    postmaster=$(server_processes | grep -Fx "$(postmaster_id)") && kill -INT "$postmaster"
    until=$(($(date +%s) + $1))
    while ! no_server_left; do
        # Orphans do not listen, and there is nobody to wait for.
        [ -n "$postmaster" ] && [ "$(date +%s)" -lt $until ] || return 1
        nap
    done
}

# The same, and then the end of whatever is left.
end_by_force() {
    end_cleanly "$1" && return 0
    say "the server has not ended by itself: killing it"
    until=$(($(date +%s) + 30))
    while pids=$(server_processes) && [ -n "$pids" ]; do
        # shellcheck disable=SC2086 # one word an id
        kill -KILL $pids 2>/dev/null
        [ "$(date +%s)" -lt $until ] || fail "processes of the server cannot be killed: $pids"
        nap
    done
}

nap() { sleep 0.1 2>/dev/null || sleep 1; }

# ---- What is known of the node and of the primary ----

tool() {
    name=$1
    shift
    LC_ALL=C "${PGBIN:+$PGBIN/}$name" "$@"
}

# A field of the control file.
control() { tool pg_controldata -D "$PGDATA" | sed -n "s/^$1: *//p"; }

has_data() { [ -s "$PGDATA/PG_VERSION" ] && [ -s "$PGDATA/global/pg_control" ]; }

# A connection string for a host, a port and an application's name.
conninfo() {
    printf "host='%s' port='%s' user='%s' application_name='%s' connect_timeout='10'%s" \
        "$(escaped "$1")" "$2" "$(escaped "$REPLICATION_USER")" "$(escaped "$3")" "${CONNINFO:+ $CONNINFO}"
}

# For a value between quotes in a connection string.
escaped() { printf %s "$1" | sed "s/[\\\\']/\\\\&/g"; }

# For a value between quotes in a configuration file.
configured() { printf %s "$1" | sed "s/\\\\/\\\\\\\\/g; s/'/''/g"; }

# Not by the node's own name: nobody shall take a question, or a base backup, for its stream.
to_primary() { conninfo "$PGPILOT_PRIMARY_HOST" "$PGPILOT_PRIMARY_PORT" "${1:-pgpilot_hook}"; }

ask() { tool psql -XAtq -v ON_ERROR_STOP=1 -d "$1 dbname='${DATABASE:-postgres}'" -c "$2"; }
ask_primary() { ask "$(to_primary)" "$1"; }
ask_node() { ask "$(conninfo "$PGPILOT_NODE_HOST" "$PGPILOT_NODE_PORT" pgpilot_hook)" "$1"; }
replication_command() { tool psql -XAtq -d "$(to_primary) replication='true'" -c "$1"; }

# Sets SYSTEM and TIMELINE. The control file would tell an old timeline until the first checkpoint after a promotion.
identify_primary() {
    until=$(($(date +%s) + PRIMARY_WAIT))
    until [ "$(ask_primary 'SELECT pg_is_in_recovery()')" = f ]; do
        [ "$(date +%s)" -lt $until ] || fail "$PGPILOT_PRIMARY cannot be asked, or is no primary"
        nap
    done
    answer=$(replication_command IDENTIFY_SYSTEM) || fail "$PGPILOT_PRIMARY accepts no replication connection"
    SYSTEM=${answer%%|*}
    answer=${answer#*|}
    TIMELINE=${answer%%|*}
}

# Where the primary's history left a timeline; nothing if it was never on it.
fork_of() {
    [ "$TIMELINE" -gt 1 ] || return 0
    replication_command "TIMELINE_HISTORY $TIMELINE" | sed 's/^[0-9A-F]*\.history|//' |
        awk -v timeline="$1" '$1 == timeline { print $2; exit }'
}

lsn_number() { echo $(((0x${1%/*} << 32) + 0x${1#*/})); }

# Whether the first position is behind the second.
is_before() { [ "$(lsn_number "$1")" -lt "$(lsn_number "$2")" ]; }

# ---- fence and demote ----

# Whatever starts the server again (a person, the start of the host), it does not become a primary.
close_data() {
    no_server_left || fail "processes of the server are left"
    has_data || return 0
    touch "$PGDATA/standby.signal" || fail "cannot write in $PGDATA"
}

# Done and proven: everything is written, and the candidate has all of it.
prove_clean_end() {
    close_data
    state=$(control 'Database cluster state')
    [ "$state" = "shut down" ] || fail "the server was not shut down cleanly: \"$state\""
    [ -n "${PGPILOT_PRIMARY_HOST:-}" ] || return 0
    # Positions are borders of records: whoever is beyond the beginning of the last one has it.
    last=$(control 'Latest checkpoint location')
    until=$(($(date +%s) + PRIMARY_WAIT))
    while :; do
        has=$(ask_primary 'SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())') || has=
        [ -z "$has" ] || ! is_before "$last" "$has" || return 0
        [ "$(date +%s)" -lt $until ] || fail "$PGPILOT_PRIMARY has WAL up to ${has:-?}, not the last record at $last"
        nap
    done
}
