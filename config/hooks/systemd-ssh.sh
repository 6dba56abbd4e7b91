#!/bin/sh
# shellcheck disable=SC2034 # settings are used elsewhere
#
# Hooks for servers that systemd runs on hosts that ssh reaches.
#
#   fence_command = ["/etc/pgpilot/hooks/systemd-ssh.sh", "/etc/pgpilot/hooks/settings"]
#
# The argument is a file of settings, read as shell text; without it, those below are used. README.md says what the
# hosts have to allow.
set -eu

# ---- Settings ----

# The server's service, account, programs, data directory and options. (Debian's names; elsewhere SERVER_OPTIONS is
# empty, unless the configuration is not in the data directory.)
SERVICE=postgresql@17-main.service
SERVER_USER=postgres
PGBIN=/usr/lib/postgresql/17/bin
PGDATA=/var/lib/postgresql/17/main
SERVER_OPTIONS="-c config_file=/etc/postgresql/17/main/postgresql.conf"
# The role that replicas stream with, and where its password is on each host. README.md says what it needs.
REPLICATION_USER=replicator
CONNINFO="passfile='/var/lib/postgresql/.pgpass'"
# How to get to the host, which may have another address for that than for its server.
SSH_USER=pgpilot
SSH_HOST=$PGPILOT_NODE_HOST
SSH_OPTIONS="-o BatchMode=yes -o ConnectTimeout=5 -o ServerAliveInterval=5 -o ServerAliveCountMax=2"

# What ends a host that ssh does not reach: its power switch, the cloud's interface. To return 0 means that it is off,
# not that it has been told so. Without such a means a host that cannot be reached cannot be fenced.
host_off() {
    # ipmitool -H "$PGPILOT_NODE-bmc" -U fence -f /etc/pgpilot/bmc.password chassis power off &&
    #     wait_until_it_is_off
    return 1
}

# shellcheck source=/dev/null
[ $# -eq 0 ] || . "$1"

HERE=$(dirname "$0")
# shellcheck source=config/hooks/common.sh
. "$HERE/common.sh"

remote() {
    # shellcheck disable=SC2029,SC2086 # the words are put together here; options are several words
    ssh $SSH_OPTIONS "$SSH_USER@$SSH_HOST" "$@"
}

on_node() { node_program "$@" | remote "sudo -n -u $SERVER_USER sh -s"; }

# A service that is stopped so is not started again by its `Restart=`. Where ssh is of no use, 255 is its status.
stop_server() {
    status=0
    stop_service "$1" || status=$?
    [ $status -ne 0 ] || return 0
    [ "$PGPILOT_HOOK" = fence ] || return $status
    say "cannot be stopped by ssh (status $status): switching the host off"
    host_off
}

stop_service() {
    begin_stop || return
    wait_for_stop "$1" && on_node end_by_force 0 && return
    # All of the service's processes, also those that its main process has left behind.
    remote "sudo -n systemctl kill --signal=SIGKILL $SERVICE" </dev/null || true
    begin_stop && wait_for_stop 30 && on_node end_by_force 0
}

stop_server_cleanly() {
    begin_stop
    wait_for_stop "$DEMOTE_WAIT" || {
        say "$SERVICE has not stopped within $DEMOTE_WAIT s"
        return 1
    }
}

begin_stop() { remote "sudo -n systemctl stop --no-block $SERVICE" </dev/null; }

# Fails if something is left of it after so many seconds.
wait_for_stop() {
    remote "until=\$((\$(date +%s) + $1))
        while case \$(systemctl is-active $SERVICE) in inactive | failed | unknown) false ;; esac; do
            [ \$(date +%s) -lt \$until ] || exit 1
            sleep 0.1
        done" </dev/null
}

start_server() { remote "sudo -n systemctl start $SERVICE" </dev/null; }

main
