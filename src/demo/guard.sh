# Ends the servers of one throwaway cluster and removes its directory ($1) as soon as standard input closes: that is
# when the process that made the cluster lets it go, or is gone, for whatever reason.
trap '' INT HUP TERM QUIT PIPE
while read -r _; do :; done

# A server's working directory is its data directory, which its children, orphans too, inherit.
servers() {
    if [ -d /proc/self ]; then
        for cwd in $(find /proc/[0-9]*/cwd -maxdepth 0 -lname "$1/*" 2>/dev/null); do
            pid=${cwd#/proc/}
            pid=${pid%/cwd}
            read -r name <"/proc/$pid/comm" && [ "$name" = postgres ] && echo "$pid"
        done 2>/dev/null
    else
        pgrep -f -- "-D $1/"
    fi
}

# SIGQUIT is the immediate shutdown: no checkpoint, but shared memory is given back. A frozen server has to be thawed.
pids=$(servers "$1")
[ -z "$pids" ] || kill -QUIT $pids 2>/dev/null
[ -z "$pids" ] || kill -CONT $pids 2>/dev/null
tries=0
while pids=$(servers "$1"); [ -n "$pids" ]; do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || kill -KILL $pids 2>/dev/null
    [ $tries -lt 300 ] || break
    sleep 0.02
done

# A server that was killed leaves its segment of System V shared memory; line 7 of its lock file names it.
for lock in "$1"/*/data/postmaster.pid; do
    [ -f "$lock" ] || continue
    segment=$(sed -n '7s/^ *[0-9][0-9]* *\([0-9][0-9]*\).*$/\1/p' "$lock")
    [ -z "$segment" ] || ipcrm -m "$segment" 2>/dev/null
done
rm -rf "$1"
