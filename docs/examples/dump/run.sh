# Keeps the latest 24 dumps.
set -eu
cd "$NEBULA_VOLUME_DUMPS"
# Of a run that was killed.
rm -f ./*.part
name=$(date -u +%Y%m%dT%H%M%SZ).sql
pg_dump --host="$NEBULA_POSTGRES_HOST" --port="$NEBULA_POSTGRES_PORT" --username=postgres --dbname=postgres --file="$name.part"
mv "$name.part" "$name"
sync .
ls | grep '\.sql$' | sort --reverse | tail -n +25 | xargs --no-run-if-empty rm --
echo "dumped $(wc -c <"$name") bytes to $name"
