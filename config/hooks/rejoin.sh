# shellcheck shell=dash disable=SC2015,SC2153,SC2154
# What rejoin does where a server is; this goes together with node.sh.
#
# Sources: PostgreSQL's documentation of pg_rewind ("Usage", "How It Works"), of pg_basebackup, and of "Standby Server
# Operation".

# Before anything is changed: is this the right primary for these files?
check_primary() {
    identify_primary
    has_data || return 0
    system=$(control 'Database system identifier')
    [ "$system" = "$SYSTEM" ] || fail "the files are of system $system, $PGPILOT_PRIMARY is of system $SYSTEM"
    timeline=$(control "Latest checkpoint's TimeLineID")
    [ "$timeline" -le "$TIMELINE" ] ||
        fail "the node is on timeline $timeline already, $PGPILOT_PRIMARY on $TIMELINE: it may be the better primary"
}

# Whether the node streams from the primary. Only a role with pg_read_all_stats (pg_monitor) sees the state; to others
# the use of the node's slot says that there is a stream.
streams() {
    [ "$(ask_primary "SELECT count(*) > 0 FROM pg_stat_replication AS r LEFT JOIN pg_replication_slots AS s
            ON s.active_pid = r.pid WHERE r.application_name = '$(configured "$APPLICATION_NAME")'
            AND (r.state = 'streaming' OR r.state IS NULL AND s.slot_name = '$(slot_of "$PGPILOT_NODE")')")" = t ]
}

slot_of() { printf %s "$SLOT_PREFIX$1" | tr '[:upper:]' '[:lower:]' | LC_ALL=C tr -c '[:lower:]0-9_' _; }

# Gives a stopped node the primary's history and has it follow. The way that was taken is noted in $WORK/how.
prepare() {
    no_server_left || fail "processes of the server are left"
    check_primary
    how=$(choose)
    reserve_wal
    case $how in
    rewind)
        rewind || {
            say "pg_rewind did not do it"
            how=copy
            copy_primary
        }
        ;;
    copy) copy_primary ;;
    esac
    follow
    echo "$how" >"$WORK/how"
}

# When a prepared node does not stream: the primary does not have the WAL any more that it needs.
prepare_anew() {
    [ "$(cat "$WORK/how" 2>/dev/null)" != copy ] || fail "a new base backup does not stream; see the server's log"
    check_primary
    reserve_wal
    copy_primary
    follow
    echo copy >"$WORK/how"
}

# Prints as-it-is, rewind or copy, and says why.
choose() {
    if ! has_data || [ -e "$WORK/unfinished" ]; then
        say "there are no whole files here: a base backup is needed"
        echo copy
        return
    fi
    fork=$(fork_of "$timeline")
    state=$(control 'Database cluster state')
    if [ "$REJOIN_BY" = copy ]; then
        how=copy
    else
        how=$(choose_by "$state")
    fi
    say "state \"$state\", timeline $timeline${fork:+ that $PGPILOT_PRIMARY left at $fork}: $how"
    echo "$how"
}

choose_by() {
    checkpoint=$(control 'Latest checkpoint location')
    case $1 in
    "shut down in recovery" | "in archive recovery")
        # A standby. Without pg_rewind it cannot follow when it has more than the primary had when it was promoted.
        replayed=$(control 'Minimum recovery ending location')
        if [ "$timeline" = "$TIMELINE" ] || { [ -n "$fork" ] && ! is_before "$fork" "$replayed" && ! is_before "$fork" "$checkpoint"; }; then
            echo as-it-is
        elif [ "$1" = "shut down in recovery" ]; then
            echo rewind
        else
            echo copy
        fi
        ;;
    *)
        # It was a primary. Two of them on one timeline: pg_rewind would see no difference.
        if [ "$timeline" = "$TIMELINE" ]; then
            echo copy
        elif [ "$1" = "shut down" ] && [ -n "$fork" ] && is_before "$checkpoint" "$fork"; then
            # The last thing it wrote, the checkpoint of its shutdown, is part of the primary's history.
            echo as-it-is
        else
            echo rewind
        fi
        ;;
    esac
}

# From now on the primary keeps the WAL that the node is going to need. A slot that already does so stays as it is.
reserve_wal() {
    [ "$SLOTS" = yes ] || return 0
    slot=$(slot_of "$PGPILOT_NODE")
    ask_primary "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '$slot'
            AND NOT active AND (restart_lsn IS NULL OR wal_status = 'lost')" >/dev/null &&
        ask_primary "SELECT pg_create_physical_replication_slot('$slot', true)
            WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '$slot')" >/dev/null ||
        fail "cannot make the replication slot $slot on $PGPILOT_PRIMARY"
}

rewind() {
    checkpoint_primary || return 1
    keep_configuration
    # With this file there, the recovery after a crash would be that of a standby, which does not end.
    rm -f "$PGDATA/standby.signal" "$PGDATA/recovery.signal" "$PGDATA/postmaster.pid"
    case $(control 'Database cluster state') in
    "shut down" | "shut down in recovery") ;;
    *)
        # pg_rewind would do the same, but before version 15 it does not find a configuration that is kept elsewhere.
        say "recovering from the crash first"
        # shellcheck disable=SC2086 # several words
        tool postgres --single -F -D "$PGDATA" $SERVER_OPTIONS template1 </dev/null >/dev/null || return 1
        ;;
    esac
    # Half done, the files are of no use any more.
    touch "$WORK/unfinished" || fail "cannot write in $WORK"
    # shellcheck disable=SC2086 # several words
    tool pg_rewind -D "$PGDATA" --source-server "$(to_primary) dbname='${DATABASE:-postgres}'" $PG_REWIND_OPTIONS >&2 ||
        return 1
    restore_configuration
    rm -f "$WORK/unfinished"
}

# Before version 16, pg_rewind goes by the timeline in the primary's last checkpoint, which after a promotion is still
# the old one. A role that may not ask for a checkpoint waits for the one that the promotion itself has asked for.
checkpoint_primary() {
    until=$(($(date +%s) + CHECKPOINT_WAIT))
    ask_primary CHECKPOINT || say "waiting for a checkpoint of $PGPILOT_PRIMARY (\"$REPLICATION_USER\" may not ask for one)"
    until [ "$(ask_primary 'SELECT timeline_id FROM pg_control_checkpoint()')" = "$TIMELINE" ]; do
        [ "$(date +%s)" -lt $until ] || return 1
        nap
    done
}

copy_primary() {
    say "taking a new base backup of $PGPILOT_PRIMARY"
    keep_configuration
    touch "$WORK/unfinished" || fail "cannot write in $WORK"
    mkdir -p "$PGDATA" && empty_data || fail "cannot empty $PGDATA"
    # shellcheck disable=SC2046,SC2086 # several words
    tool pg_basebackup -D "$PGDATA" -d "$(to_primary)" --checkpoint fast --wal-method stream \
        $([ "$SLOTS" != yes ] || echo --slot "$(slot_of "$PGPILOT_NODE")") $PG_BASEBACKUP_OPTIONS >&2 ||
        fail "pg_basebackup failed"
    chmod 700 "$PGDATA"
    restore_configuration
    rm -f "$WORK/unfinished"
}

# The directory itself stays: it may be where a file system is mounted. The same for tablespaces.
empty_data() {
    for tablespace in "$PGDATA"/pg_tblspc/*; do
        [ ! -d "$tablespace/" ] || find "$tablespace/" -mindepth 1 -maxdepth 1 -name 'PG_*' -exec rm -rf {} +
    done
    find "$PGDATA/" -mindepth 1 -maxdepth 1 -exec rm -rf {} +
}

# What makes the node differ from others; the primary's would replace it. Kept until it is restored, so that a second
# attempt does not keep what the first one has overwritten.
keep_configuration() {
    [ ! -d "$WORK/kept" ] || return 0
    rm -rf "$WORK/keeping" && mkdir "$WORK/keeping" || fail "cannot write in $WORK"
    for pattern in $KEPT_FILES; do
        for file in "$PGDATA"/$pattern; do
            [ ! -f "$file" ] || cp -pP "$file" "$WORK/keeping/" || fail "cannot keep $file"
        done
    done
    mv "$WORK/keeping" "$WORK/kept" || fail "cannot write in $WORK"
}

restore_configuration() {
    for file in "$WORK/kept"/*; do
        [ ! -f "$file" ] || cp -pP "$file" "$PGDATA/" || fail "cannot restore ${file##*/}"
    done
    rm -rf "$WORK/kept"
}

# At its next start the node is a standby of the primary.
follow() {
    settings=$PGDATA/postgresql.auto.conf
    # default_transaction_read_only: what is left of a fence by SQL would make it a primary that cannot write, one day.
    ours='^[[:space:]]*(primary_conninfo|primary_slot_name|recovery_target[a-z_]*|default_transaction_read_only)[[:space:]=]'
    {
        grep -Eiv "$ours" "$settings" 2>/dev/null
        echo "primary_conninfo = '$(configured "$(to_primary "$APPLICATION_NAME")")'"
        [ "$SLOTS" != yes ] || echo "primary_slot_name = '$(slot_of "$PGPILOT_NODE")'"
        echo "recovery_target_timeline = 'latest'"
    } >"$settings.tmp" && mv "$settings.tmp" "$settings" || fail "cannot write $settings"
    rm -f "$PGDATA/recovery.signal"
    touch "$PGDATA/standby.signal" || fail "cannot write in $PGDATA"
    sync
}

# As long as the node gets on it is waited for, also until it accepts connections.
await_streaming() {
    since=$(date +%s)
    seen=$since
    position=
    until streams; do
        now=$(date +%s)
        before=$position
        position=$(ask_node 'SELECT pg_last_wal_replay_lsn()' 2>/dev/null) || position=
        [ "$position" = "$before" ] || since=$now
        if [ -n "$position" ] || ! no_server_left; then seen=$now; fi
        limit=$START_WAIT
        [ -z "$position" ] || limit=$STREAM_WAIT
        [ $((now - seen)) -lt 5 ] || { say "the server has ended; see its log"; return 1; }
        [ $((now - since)) -lt "$limit" ] || { say "no stream and no progress for $limit s"; return 1; }
        nap
    done
    say "streams from $PGPILOT_PRIMARY"
}

# Slots on the node itself. What it had as a primary would keep WAL for ever; empty ones are there for the day when it
# is the primary again, or its followers would find none.
finish() {
    [ -e "$WORK/how" ] || return 0
    if [ "$SLOTS" = yes ]; then
        renew_slots || say "its replication slots are not all there; before it becomes the primary, they should be"
    fi
    rm -f "$WORK/how"
}

renew_slots() {
    physical="slot_type = 'physical' AND NOT temporary"
    names=$(ask_primary "SELECT quote_literal(slot_name) FROM pg_replication_slots WHERE $physical") || return 1
    names=$(echo "$names" "'$(slot_of "$PGPILOT_PRIMARY")'" | tr '\n ' ',,' | sed 's/,,*/,/g; s/^,//; s/,$//')
    until=$(($(date +%s) + START_WAIT))
    until ask_node 'SELECT 1' >/dev/null 2>&1; do
        [ "$(date +%s)" -lt $until ] || return 1
        nap
    done
    ask_node "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
        WHERE $physical AND NOT active AND restart_lsn IS NOT NULL" >/dev/null &&
        ask_node "SELECT pg_create_physical_replication_slot(name) FROM (SELECT DISTINCT unnest(ARRAY[$names])) AS names(name)
            WHERE name NOT IN (SELECT slot_name FROM pg_replication_slots)" >/dev/null
}

# ---- Undoing fence and demote: the node is what it was ----

reopen() {
    no_server_left || fail "processes of the server are left"
    case $(control 'Database cluster state') in
    *recovery*) [ "$(control 'Database cluster state')" = "in crash recovery" ] || fail "it has been a standby since" ;;
    esac
    rm -f "$PGDATA/standby.signal"
}

is_writable() { [ "$(ask_node 'SELECT pg_is_in_recovery()' 2>/dev/null)" = f ]; }

await_writable() {
    until=$(($(date +%s) + START_WAIT))
    until is_writable; do
        [ "$(date +%s)" -lt $until ] || fail "it does not accept writes after $START_WAIT s"
        nap
    done
}
