# The first start makes the database, every later one finds it again.
set -eu
data=$NEBULA_VOLUME_DATA/data
# Debian keeps major versions apart. What is there stays with its own; what is new takes the newest.
newest=$(ls /usr/lib/postgresql | sort --version-sort | tail -n 1)
version=$(cat "$data/PG_VERSION" 2>/dev/null || echo "$newest")
PATH=/usr/lib/postgresql/$version/bin:$PATH

if [ ! -e "$data" ]; then
    # Beside its place at first: what was left half made is made anew.
    rm -rf "$data.new"
    # The password goes by a pipe. Arguments can be read by everybody.
    printf '%s\n' "$POSTGRES_PASSWORD" | initdb --pgdata="$data.new" --username=postgres \
        --pwfile=/dev/stdin --auth=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8 --data-checksums --no-instructions
    mv "$data.new" "$data"
    sync "$NEBULA_VOLUME_DATA"
fi
unset POSTGRES_PASSWORD

postgres -D "$data" -c listen_addresses=127.0.0.1 -c port="$PORT" -c unix_socket_directories=/tmp &
server=$!
# At SIGTERM PostgreSQL waits until its clients have gone; at SIGINT it ends their sessions and shuts down in order.
trap 'kill -INT "$server"' TERM
code=0
wait "$server" || code=$?
# The signal ended the first wait, and not yet the server.
while kill -0 "$server" 2>/dev/null; do
    code=0
    wait "$server" || code=$?
done
exit "$code"
