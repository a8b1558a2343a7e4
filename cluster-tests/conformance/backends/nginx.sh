# nginx in front of the recorder. $WORK is a folder to write to, $PYTHON the interpreter.
set -eu
"$PYTHON" record.py "$WORK/nginx.sock" &
cat > "$WORK/nginx.conf" <<CONF
daemon off;
master_process off;
pid $WORK/nginx.pid;
error_log $WORK/nginx.log;
events { worker_connections 256; }
http {
    access_log off;
    client_body_temp_path $WORK/body;
    proxy_temp_path $WORK/proxy;
    fastcgi_temp_path $WORK/fastcgi;
    uwsgi_temp_path $WORK/uwsgi;
    scgi_temp_path $WORK/scgi;
    server {
        listen 127.0.0.1:$PORT;
        location / {
            proxy_pass http://unix:$WORK/nginx.sock:;
            proxy_http_version 1.1;
            proxy_set_header Host \$http_host;
        }
    }
}
CONF
exec "$NGINX" -c "$WORK/nginx.conf" -e "$WORK/nginx.log"
