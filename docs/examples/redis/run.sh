# The settings come by standard input, because the password is one. Arguments can be read by everybody.
exec redis-server - <<END
bind 127.0.0.1
port $PORT
dir "$NEBULA_VOLUME_DATA"
appendonly yes
maxmemory 128mb
requirepass "$REDIS_PASSWORD"
END
