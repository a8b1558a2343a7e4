"""Chromium: a page over HTTP/2 and TLS, a request from it, and a WebSocket, which it opens on the same connection (RFC 8441)."""

import html
import re
import subprocess
import sys

from cluster import BACKENDS

PATIENCE_SECONDS = 90


def run(lab, results):
    program = lab.find("chromium") or lab.find("chromium-browser") or lab.find("google-chrome")
    if not program:
        results.skip("Chromium", "no chromium (docs/proxy-conformance.md says where from)")
        return
    if missing := lab.missing_module("wsproto"):
        results.skip("Chromium", missing)
        return
    python = {"PYTHON": sys.executable, "PYTHONPATH": lab.python_path}
    lab.cluster.serve("echo", BACKENDS, 'exec "$PYTHON" echo.py', python)
    # Page and socket under one name: a browser opens a WebSocket on a connection of HTTP/2 only where it has one to that name.
    app = lab.cluster.deploy("browser", BACKENDS, 'exec "$PYTHON" app.py', python, '[[rules]]\npath = "/chat"\nto = "echo"\n')
    for what, node in (("", lab.cluster.near), (" through another node", lab.cluster.far)):
        page(lab, results, program, what, node, app)


def page(lab, results, program, what, node, app):
    folder = lab.cluster.folder / f"browser-{node.name}"
    log = folder / "net.json"
    folder.mkdir(exist_ok=True)
    words = [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={folder}", "--ignore-certificate-errors"]
    words += [f"--host-resolver-rules=MAP *.conf.test 127.0.0.1:{node.tls}", f"--log-net-log={log}", "--dump-dom"]
    done = subprocess.run([*words, f"https://{app}/page"], capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    said = re.search(r'<pre id="said">(.*?)</pre>', done.stdout, re.S)
    text = html.unescape(said[1]) if said else (done.stdout + done.stderr)[-200:]
    wanted = "done: page by h2, echo of 100000, socket 5+70000 closed 1000"
    results.check(f"a page, a request and a WebSocket{what}", text == wanted, text)
    kinds = log.read_text(errors="replace") if log.exists() else ""
    connect = '":protocol: websocket"' in kinds
    results.check(f"the WebSocket was opened on HTTP/2{what}", connect, "by extended CONNECT" if connect else "Chromium opened a connection of HTTP/1.1 for it")
