"""WebSocket (RFC 6455) through the edge: Autobahn's cases, by Autobahn itself.

The edge is a tunnel, so what counts is that a case goes through it as it goes without it: each case runs against the echo server
directly and by each way through an edge, and what Autobahn notes of it has to be the same.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from cluster import BACKENDS

HERE = Path(__file__).parent
# 1 framing, 2 pings, 3 reserved bits, 4 opcodes, 5 fragments, 6 UTF-8, 7 close, 9 limits, 10 autofragmentation, 12 and 13 compression.
QUICK = ["1.*", "2.*", "3.*", "4.*", "5.*", "7.*"]
WHOLE = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"]
# Compression: of each group messages of 16, 256 and 4,096 bytes in one frame, and of 8,192 in 32. All 216 cases take hours in Python.
GROUPS = [*(f"12.{number}" for number in range(1, 6)), *(f"13.{number}" for number in range(1, 8))]
COMPRESSED = [f"{group}.{size}" for group in GROUPS for size in (1, 3, 5, 11)]
SUITE_SECONDS = 1800
# What of Autobahn's notes on a case does not depend on how bytes were cut on their way.
SAME = ["behavior", "behaviorClose", "remoteCloseCode", "remoteCloseReason", "received", "rxFrameStats", "wasClean", "wasOpenHandshakeTimeout"]


def python2(lab):
    """A Python 2.7 that exists, and the folder of Autobahn's packages."""
    folder = os.environ.get("NEBULA_CONFORMANCE_AUTOBAHN", "")
    interpreter = os.environ.get("NEBULA_CONFORMANCE_PYTHON2") or lab.find("python2.7")
    if not interpreter or not Path(folder, "autobahntestsuite").exists():
        return None
    return interpreter, folder


def run(lab, results):
    missing = lab.missing_module("wsproto", "h2")
    suite = python2(lab)
    if missing is None and suite is None:
        missing = "no Autobahn (NEBULA_CONFORMANCE_AUTOBAHN, NEBULA_CONFORMANCE_PYTHON2)"
    if missing:
        results.skip("Autobahn", missing)
        return
    cluster = lab.cluster
    host, direct, _ = cluster.serve("echo", BACKENDS, 'exec "$PYTHON" echo.py', {"PYTHONPATH": lab.python_path})
    bridges = [
        Bridge(lab, host, cluster.near.edge),
        Bridge(lab, host, cluster.near.tls, cluster.ca),
        Bridge(lab, host, cluster.far.tls, cluster.ca),
    ]
    ways = {
        "directly": f"ws://{host}:{direct[1]}",
        "HTTP/1.1": f"ws://{host}:{cluster.near.edge}",
        "HTTP/1.1 over TLS": f"wss://{host}:{cluster.near.tls}",
        "HTTP/2": f"ws://{host}:{bridges[0].port}",
        "HTTP/2 over TLS": f"ws://{host}:{bridges[1].port}",
        "another node": f"ws://{host}:{cluster.far.edge}",
        "HTTP/2 over TLS and another node": f"ws://{host}:{bridges[2].port}",
    }
    try:
        if lab.arguments.quick:
            compare(lab, suite, results, ways, QUICK, "cases")
        else:
            compare(lab, suite, results, ways, WHOLE, "cases")
            compressed = {way: ways[way] for way in ("directly", "HTTP/1.1", "HTTP/2 over TLS", "another node")}
            compare(lab, suite, results, compressed, COMPRESSED, "compressed")
    finally:
        for bridge in bridges:
            bridge.process.terminate()
            bridge.process.wait()


class Bridge:
    """A program that speaks HTTP/2 to the edge for Autobahn, which knows only HTTP/1.1."""

    def __init__(self, lab, host, port, ca=None):
        words = [sys.executable, HERE / "bridge.py", host, str(port), *([str(ca)] if ca else [])]
        environment = {**os.environ, "PYTHONPATH": lab.python_path}
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)
        self.port = int(self.process.stdout.readline())


def compare(lab, suite, results, ways, cases, what):
    reports = {}
    for way, url in ways.items():
        began = time.monotonic()
        reports[way] = autobahn(lab, suite, way, url, cases)
        seconds = time.monotonic() - began
        by_itself = sum(case["behavior"] in ("OK", "NON-STRICT", "INFORMATIONAL") for case in reports[way].values())
        note = f"{by_itself} as Autobahn wants it, {seconds:.0f} s"
        if way == "directly":
            print(f"  {what} directly: {note}", flush=True)
            continue
        alone = reports["directly"]
        failures = []
        for number, case in alone.items():
            other = reports[way].get(number)
            if other is None:
                failures.append(f"{number}: did not run")
                continue
            for name in SAME:
                if case[name] != other[name]:
                    failures.append(f"{number}: {name} is {str(other[name])[:120]}, {str(case[name])[:120]} without the edge")
        wrong = len({failure.split(":")[0] for failure in failures})
        results.add(f"Autobahn's {what}, {way}", len(alone) - wrong, len(alone), failures, note)


def autobahn(lab, suite, way, url, cases):
    """Number of case → what Autobahn noted."""
    interpreter, packages = suite
    folder = lab.cluster.folder / "autobahn" / way.replace("/", "-").replace(" ", "-") / cases[0].split(".")[0]
    folder.mkdir(parents=True)
    spec = {
        "outdir": str(folder), "servers": [{"agent": "edge", "url": url, "options": {"version": 18}}],
        "cases": cases, "exclude-cases": [], "exclude-agent-cases": {},
    }  # fmt: skip
    file = folder / "spec.json"
    file.write_text(json.dumps(spec))
    words = [interpreter, HERE / "wstest.py", packages, file]
    with open(folder / "log", "wb") as log:
        subprocess.run(words, stdout=log, stderr=log, timeout=SUITE_SECONDS, cwd=folder, check=True)
    index = json.loads((folder / "index.json").read_text())["edge"]
    return {number: json.loads((folder / case["reportfile"]).read_text()) for number, case in index.items()}
