# nginx that answers by itself and lets a connection go after 1,000 requests. $WORK is a folder to write to.
set -eu
cat > "$WORK/nginx.conf" <<CONF
daemon off;
master_process off;
pid $WORK/nginx.pid;
error_log $WORK/nginx.log;
events { worker_connections 2048; }
http {
    access_log off;
    client_body_temp_path $WORK/body;
    proxy_temp_path $WORK/proxy;
    fastcgi_temp_path $WORK/fastcgi;
    uwsgi_temp_path $WORK/uwsgi;
    scgi_temp_path $WORK/scgi;
    keepalive_requests 1000;
    server {
        listen 127.0.0.1:$PORT;
        location / { return 200 "Hello, world!"; }
    }
}
CONF
exec "$NGINX" -c "$WORK/nginx.conf" -e "$WORK/nginx.log"
