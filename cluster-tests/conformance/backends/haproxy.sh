# HAProxy in front of the recorder. $WORK is a folder to write to, $PYTHON the interpreter.
set -eu
"$PYTHON" record.py "$WORK/haproxy.sock" &
cat > "$WORK/haproxy.cfg" <<CONF
global
    nbthread 1
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend in
    bind 127.0.0.1:$PORT
    default_backend recorder
backend recorder
    server recorder unix@$WORK/haproxy.sock
CONF
exec "$HAPROXY" -db -f "$WORK/haproxy.cfg"
