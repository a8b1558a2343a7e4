"""An application for clients: says what it got, gives bytes in many ways, and reads every body to its end.

  /            a page                          /bytes?n=N   N bytes, with ranges (RFC 9110 section 14)
  /echo        the body that was sent          /slow?ms=N   a page, later
  /trailers    chunks, then a trailer field    /stream?n=N  N chunks, one every 50 ms
  /gzip        compressed if that is accepted  /page        a page for a browser, which opens a WebSocket at /chat
"""

import gzip
import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

STREAM_SECONDS = 0.05
BLOCK = bytes(range(256)) * 256

PAGE = """<!doctype html><meta charset="utf-8"><title>conformance</title><pre id="said">nothing yet</pre>
<img src="/slow?ms=4000" alt="keeps the page from being complete for as long as a socket may take">
<script>
const say = (text) => { document.getElementById("said").textContent = text; };
const page = performance.getEntriesByType("navigation")[0].nextHopProtocol;
const part = fetch("/echo", { method: "POST", body: "x".repeat(100000) }).then((answer) => answer.text());
const socket = new Promise((resolve) => {
  const heard = [];
  const ws = new WebSocket(`wss://${location.host}/chat`);
  ws.onopen = () => { ws.send("hello"); ws.send("y".repeat(70000)); };
  ws.onmessage = (event) => { heard.push(event.data.length); if (heard.length === 2) ws.close(1000); };
  ws.onclose = (event) => resolve(`${heard.join("+")} closed ${event.code}`);
});
Promise.all([part, socket]).then(([text, chat]) => say(`done: page by ${page}, echo of ${text.length}, socket ${chat}`), (error) => say(`failed: ${error}`));
</script>
"""


def block(start, end):
    """Bytes of an endless text: each has its place in it."""
    turns = end // len(BLOCK) + 1
    return (BLOCK * turns)[start:end] if end < 1 << 20 else b"".join(pieces(start, end))


def pieces(start, end):
    while start < end:
        at = start % len(BLOCK)
        piece = BLOCK[at : at + end - start]
        start += len(piece)
        yield piece


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def body(self):
        if (self.headers.get("Transfer-Encoding") or "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline() not in (b"\r\n", b""):
                pass
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def whole(self, body, status=200, kind="text/plain", **fields):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def chunks(self, list_, trailer=b""):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        if trailer:
            self.send_header("Trailer", "x-sum")
        self.end_headers()
        if self.command == "HEAD":
            return
        for chunk in list_:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            self.wfile.flush()
        self.wfile.write(b"0\r\n" + trailer + b"\r\n")

    def bytes(self, total):
        wanted = self.headers.get("Range", "")
        fields = {"Accept_Ranges": "bytes", "ETag": f'"{total}"'}
        if wanted.startswith("bytes=") and self.headers.get("If-Range", f'"{total}"') == f'"{total}"':
            first, _, last = wanted[6:].partition("-")
            start = int(first) if first else max(0, total - int(last))
            end = min(total, int(last) + 1) if first and last else total
            if start >= total:
                return self.whole(b"", 416, Content_Range=f"bytes */{total}")
            return self.whole(block(start, end), 206, Content_Range=f"bytes {start}-{end - 1}/{total}", **fields)
        return self.whole(block(0, total), **fields)

    def answer(self):
        body = self.body()
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path == "/echo":
            self.whole(body, X_Protocol=self.request_version)
        elif parts.path == "/bytes":
            self.bytes(int(query["n"]))
        elif parts.path == "/slow":
            time.sleep(int(query["ms"]) / 1000)
            self.whole(b"late\n")
        elif parts.path == "/trailers":
            self.chunks([b"one", b"two"], b"x-sum: 6\r\n")
        elif parts.path == "/stream":
            self.chunks(self.later(int(query["n"])))
        elif parts.path == "/gzip":
            accepts = "gzip" in self.headers.get("Accept-Encoding", "")
            text = block(0, 100_000)
            self.whole(gzip.compress(text) if accepts else text, **({"Content_Encoding": "gzip"} if accepts else {}))
        elif parts.path == "/page":
            # The policy that the edge adds forbids nothing of this; it is said here so that the page depends on no default.
            self.whole(PAGE.encode(), kind="text/html", Content_Security_Policy="default-src 'self' 'unsafe-inline'; connect-src *")
        else:
            said = {"method": self.command, "path": self.path, "body": len(body), "fields": dict(self.headers.items())}
            self.whole(json.dumps(said).encode(), kind="application/json")

    def later(self, count):
        for number in range(count):
            time.sleep(STREAM_SECONDS)
            yield b"%d\n" % number

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = answer


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
