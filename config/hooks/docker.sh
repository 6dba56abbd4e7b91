#!/bin/sh
# shellcheck disable=SC2016,SC2034 # $ in a template for Docker; settings that are used elsewhere
#
# Hooks for servers in containers of one Docker engine, each with a volume of its own.
#
#   fence_command = ["/etc/pgpilot/hooks/docker.sh", "/etc/pgpilot/hooks/settings"]
#
# The argument is a file of settings, read as shell text; without it, those below are used. The program `docker` has to
# reach the engine: whoever can do that is as mighty as root on its host (README.md).
set -eu

# ---- Settings ----

# The node's container; with Docker Compose: `container_name`, or project, service and number as in `shop-pg1-1`.
CONTAINER=$PGPILOT_NODE
# The data directory in the container. It is not the volume itself but a directory in it: the volume also holds
# what has to be remembered between two calls.
PGDATA=/var/lib/postgresql/data/pgdata
# The account that the server runs as, in the container.
SERVER_USER=postgres
# The role that replicas stream with, and where its password is in the container. README.md says what it needs.
REPLICATION_USER=replicator
CONNINFO="passfile='/var/lib/postgresql/data/passfile'"

# shellcheck source=/dev/null
[ $# -eq 0 ] || . "$1"

HERE=$(dirname "$0")
# shellcheck source=config/hooks/common.sh
. "$HERE/common.sh"

# In the container, if it runs; else in another one with its volumes and its network.
on_node() {
    if runs; then
        node_program "$@" | docker exec --interactive --user "$SERVER_USER" "$CONTAINER" sh -s
    else
        node_program "$@" | docker run --rm --interactive --user "$SERVER_USER" --volumes-from "$CONTAINER" \
            --network "$(about '{{range $name, $_ := .NetworkSettings.Networks}}{{println $name}}{{end}}' | head -n 1)" \
            --entrypoint sh "$(about '{{.Config.Image}}')" -s
    fi
}

about() { docker inspect --type container --format "$1" "$CONTAINER"; }

runs() { [ "$(about '{{.State.Running}}')" = true ]; }

# A frozen container (docker pause) takes no signal. One that is stopped so is not started by `restart: unless-stopped`.
stop_server() {
    # Its processes could commit for that long.
    [ "$(about '{{.State.Paused}}')" != true ] || docker kill "$CONTAINER" >/dev/null
    docker stop -s SIGINT -t "$1" "$CONTAINER" >/dev/null
    [ "$(about '{{.State.Running}}')" = false ]
}

# After that time it is killed, which the control file tells.
stop_server_cleanly() { stop_server "$DEMOTE_WAIT"; }

start_server() { docker start "$CONTAINER" >/dev/null; }

main
