"""Slow clients by slowhttptest: the edge closes them by its limits, and serves others meanwhile.

Every limit under test has its number here beside the edge's own, so that a change of one shows.
"""

import subprocess
import threading
import time

import http1
from results import Results

CONNECTIONS = 400
# `Limits::header_read_timeout` is 30 s, `client_stall` 60 s; the rest is what a loaded machine may take longer.
SECONDS = {"headers": 30 + 15, "body": 75, "read": 90, "range": 30}
LATE_SECONDS = 2.0


def run(lab):
    results = Results("slow")
    if missing := lab.missing("slowhttptest"):
        results.skip("slowhttptest", missing)
        return results
    host = lab.app()
    site = lab.cluster.folder / "large-site"
    site.mkdir(exist_ok=True)
    (site / "large.bin").write_bytes(b"x" * 5_000_000)
    (site / "index.html").write_text("<p>large</p>")
    files = lab.cluster.deploy("large", site)
    kinds = {
        # Header fields, one every ten seconds, without an end.
        "headers": (["-H"], host, "/"),
        # A body, some bytes every ten seconds.
        "body": (["-B", "-s", "8192"], host, "/echo"),
        # Answers that are hardly read.
        "read": (["-X", "-w", "512", "-y", "1024", "-n", "5", "-z", "32", "-k", "3"], files, "/large.bin"),
        # A thousand ranges of one file at once.
        "range": (["-R", "-a", "10", "-b", "3000"], files, "/large.bin"),
    }
    chosen = ["headers"] if lab.arguments.quick else list(kinds)
    for kind in chosen:
        flags, name, path = kinds[kind]
        judge(results, lab, kind, flags, name, path)
    return results


def judge(results, lab, kind, flags, host, path):
    address, port = lab.cluster.near.address(False)
    seconds = SECONDS[kind]
    # The name has to be one that it can find; `localhost` is the application's, others go by a field.
    words = ["slowhttptest", *flags, "-c", str(CONNECTIONS), "-r", "200", "-i", "10", "-l", str(seconds), "-x", "24", "-p", "3"]
    words += ["-u", f"http://localhost:{port}{path}", "-m", "Host"] if False else ["-u", f"http://localhost:{port}{path}"]
    watch = Watch((address, port), host)
    watch.start()
    done = subprocess.run(words, capture_output=True, text=True, timeout=seconds + 60)
    watch.stop.set()
    watch.join()
    said = done.stdout + done.stderr
    results.add(f"others are served during slow {kind}", watch.good, watch.good + len(watch.bad), watch.bad, f"slowest {watch.slowest:.2f} s")
    left = last(said, "connected")
    if kind in ("headers", "body", "read"):
        results.check(f"slow {kind}: closed by the edge's limits", left is not None and left < CONNECTIONS // 10, f"{left} of {CONNECTIONS} left after {seconds} s")


def last(said, name):
    """The last figure that slowhttptest gave of connections in that state."""
    found = [line for line in said.splitlines() if line.strip().startswith(f"{name}:")]
    digits = "".join(c for c in found[-1].split(":")[1] if c.isdigit()) if found else ""
    return int(digits) if digits else None


class Watch(threading.Thread):
    """An ordinary client, once every 100 ms."""

    def __init__(self, address, host):
        super().__init__(daemon=True)
        self.address, self.host, self.stop = address, host, threading.Event()
        self.good, self.bad, self.slowest = 0, [], 0.0

    def run(self):
        data = f"GET / HTTP/1.1\r\nHost: {self.host}\r\nConnection: close\r\n\r\n".encode()
        while not self.stop.wait(0.1):
            began = time.monotonic()
            try:
                answers, _ = http1.say(self.address, data, 1)
                problem = None if answers and answers[0].status == 200 else f"answered {answers}"
            except OSError as error:
                problem = str(error)
            took = time.monotonic() - began
            self.slowest = max(self.slowest, took)
            if problem is None and took > LATE_SECONDS:
                problem = f"took {took:.1f} s"
            if problem:
                self.bad.append(problem)
            else:
                self.good += 1
