# Runs one PostgreSQL and one Redis for as long as a test process holds the shared lock on "$dir/users".
# Arguments: directory, PostgreSQL's bin directory, seconds to linger after the last user.
set -u
dir=$1 bin=$2 linger=$3
trap '' INT TERM HUP
exec 8>"$dir/alive" 9>"$dir/users"
flock -x 8

run() {
    if [ "$(id -u)" = 0 ]; then
        exec setpriv --reuid=postgres --regid=postgres --init-groups -- "$@" 8>&- 9>&-
    fi
    exec "$@" 8>&- 9>&-
}
fail() {
    echo "$1" >"$dir/failed"
    exit 1
}

if [ "$(id -u)" = 0 ]; then chown postgres "$dir"; fi
cd "$dir"
(run "$bin/initdb" -D "$dir/pg" -U postgres --auth=trust --no-sync --encoding=UTF8 --no-locale) || fail initdb
run "$bin/postgres" -D "$dir/pg" -c listen_addresses= -c "unix_socket_directories=$dir" \
    -c fsync=off -c synchronous_commit=off -c full_page_writes=off -c max_connections=400 \
    -c shared_buffers=64MB -c max_wal_size=512MB -c autovacuum_naptime=60s -c jit=off &
pg=$!
run redis-server --port 0 --unixsocket "$dir/redis.sock" --unixsocketperm 777 --save '' --appendonly no \
    --dir "$dir" --logfile '' &
redis=$!
until "$bin/pg_isready" -q -h "$dir" && [ -S "$dir/redis.sock" ]; do
    kill -0 "$pg" 2>/dev/null || fail postgres
    kill -0 "$redis" 2>/dev/null || fail redis-server
    sleep 0.03
done
: >"$dir/ready"
while :; do
    flock -x 9
    flock -u 9
    sleep "$linger" 8>&- 9>&-
    flock -n -x 9 && break
done
kill -INT "$pg"
kill -TERM "$redis"
wait "$pg" "$redis"
rm -rf "$dir"
