"""Chromium: a page over HTTP/2 and TLS, a request from it, and a WebSocket, which it opens on the same connection (RFC 8441)."""

import html
import json
import re
import subprocess

from results import Results

PATIENCE_SECONDS = 90
# Of the browser's clock, within which the page has to be done.
BUDGET_MS = "20000"


def run(lab):
    results = Results("browser")
    program = lab.find("chromium") or lab.find("chromium-browser") or lab.find("google-chrome")
    if not program:
        results.skip("Chromium", "no chromium (docs/proxy-conformance.md says where from)")
        return results
    from smuggling import BACKENDS

    if missing := lab.missing_module("wsproto"):
        results.skip("Chromium", missing)
        return results
    app = lab.app()
    chat = lab.cluster.serve("echo", BACKENDS, 'exec "$PYTHON" echo.py', {"PYTHONPATH": lab.python_path})[0]
    for what, node in (("", lab.cluster.near), (" through another node", lab.cluster.far)):
        page(lab, results, program, what, node, app, chat)
    return results


def page(lab, results, program, what, node, app, chat):
    # Page and socket have different names, one certificate and one address: the browser may use one connection for both.
    folder = lab.cluster.folder / f"browser-{node.name}"
    log = folder / "net.json"
    folder.mkdir(exist_ok=True)
    words = [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={folder}", "--ignore-certificate-errors"]
    words += [f"--host-resolver-rules=MAP *.conf.test 127.0.0.1:{node.tls}", f"--log-net-log={log}", f"--virtual-time-budget={BUDGET_MS}", "--dump-dom"]
    done = subprocess.run([*words, f"https://{app}/page?ws={chat}"], capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    said = re.search(r'<pre id="said">(.*?)</pre>', done.stdout, re.S)
    text = html.unescape(said[1]) if said else (done.stdout + done.stderr)[-200:]
    wanted = "done: page by h2, echo of 100000, socket 5+70000 closed 1000"
    results.check(f"a page, a request and a WebSocket{what}", text == wanted, text)
    kinds = log.read_text(errors="replace") if log.exists() else ""
    connect = '":protocol: websocket"' in kinds
    results.check(f"the WebSocket was opened on HTTP/2{what}", connect, "by extended CONNECT" if connect else "Chromium opened a connection of HTTP/1.1 for it")
