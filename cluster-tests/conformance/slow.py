"""Slow clients by slowhttptest: the edge closes them by its limits, and serves others meanwhile."""

import subprocess
import threading
import time
from dataclasses import dataclass

import http1

CONNECTIONS = 200
PROBE_SECONDS = "3"
LATE_SECONDS = 2.0
# A client that was closed may not see it before it reads; the edge's own end is asked for.
LISTED = "ss"


@dataclass
class Kind:
    what: str
    flags: list
    host: str
    path: str
    # How long it goes on, and by when the edge has closed all; none where something moves again and again, which no limit ends.
    seconds: int
    closed_by: int | None


def kinds(app, files):
    # `Limits::header_read_timeout` is 30 s and `client_stall` 60 s; the rest is what a loaded machine may take longer.
    return [
        Kind("headers, a field every 10 s", ["-H", "-i", "10"], app, "/", 45, 45),
        Kind("a body of which nothing comes", ["-B", "-s", "8192", "-i", "200"], app, "/echo", 80, 80),
        Kind("a body, some bytes every 10 s", ["-B", "-s", "8192", "-i", "10"], app, "/echo", 45, None),
        Kind("answers that are not read", ["-X", "-w", "512", "-y", "1024", "-n", "200", "-z", "32"], files, "/large.bin", 80, 80),
        Kind("answers, 32 bytes every 5 s", ["-X", "-w", "512", "-y", "1024", "-n", "5", "-z", "32"], files, "/large.bin", 45, None),
        Kind("a thousand ranges", ["-R", "-a", "10", "-b", "3000"], files, "/large.bin", 45, 45),
    ]


def run(lab, results):
    if missing := lab.missing("slowhttptest", LISTED):
        results.skip("slowhttptest", missing)
        return
    site = lab.cluster.folder / "large-site"
    site.mkdir(exist_ok=True)
    (site / "large.bin").write_bytes(b"x" * 20_000_000)
    (site / "index.html").write_text("<p>large</p>")
    for kind in kinds(lab.app(), lab.cluster.deploy("large", site)):
        judge(results, lab, kind)


def judge(results, lab, kind):
    address, port = lab.cluster.near.address(False)
    # As if to a proxy: its requests then name the host that the edge knows, and nobody has to find its address.
    words = ["slowhttptest", *kind.flags, "-c", str(CONNECTIONS), "-r", "200", "-l", str(kind.seconds), "-x", "24", "-p", PROBE_SECONDS]
    words += ["-d", f"{address}:{port}", "-u", f"http://{kind.host}{kind.path}"]
    watch = Watch((address, port), kind.host)
    watch.start()
    began = time.monotonic()
    attack = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    most, left = 0, CONNECTIONS
    while attack.poll() is None and time.monotonic() - began < kind.seconds:
        time.sleep(1)
        left = held(port)
        most = max(most, left)
        if most > CONNECTIONS // 2 and left < CONNECTIONS // 10:
            break
    took = time.monotonic() - began
    attack.terminate()
    attack.communicate()
    watch.stop.set()
    watch.join()
    results.add(f"{kind.what}: others are served", watch.good, watch.good + len(watch.bad), watch.bad, f"slowest {watch.slowest:.2f} s")
    if kind.closed_by is not None:
        closed = left < CONNECTIONS // 10
        results.check(f"{kind.what}: closed", closed, f"{most} at most, {left} after {took:.0f} s")


def held(port):
    """Connections that the edge has open; what the kernel still has to deliver of closed ones is none."""
    said = subprocess.run([LISTED, "-Htn", "state", "established", "sport", "=", f":{port}"], capture_output=True, text=True).stdout
    return len(said.splitlines())


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
