"""Load by h2load and wrk: nothing is to fail. No figures are taken here; those are `just bench-proxy`."""

import re
import subprocess

from cluster import BACKENDS

REQUESTS = 100_000
QUICK_REQUESTS = 5_000
WRK_SECONDS = 5
PATIENCE_SECONDS = 300


def run(lab, results):
    # Files, so that the edge answers by itself, and a program behind it.
    site = lab.cluster.folder / "site"
    site.mkdir(exist_ok=True)
    (site / "index.html").write_text("<p>conformance</p>\n" * 50)
    files = lab.cluster.deploy("files", site)
    upstream = upstream_of(lab)
    count = QUICK_REQUESTS if lab.arguments.quick else REQUESTS
    if missing := lab.missing("h2load"):
        results.skip("h2load", missing)
    else:
        for what, host, node in (("files", files, lab.cluster.near), ("a program", upstream, lab.cluster.near), ("a program on another node", upstream, lab.cluster.far)):
            if host is None:
                results.skip(what, "no nginx")
                continue
            # Requests, connections, streams of each.
            for version, tls, flags in (("HTTP/1.1", False, ["--h1", "-c32"]), ("HTTP/2", False, ["-c16", "-m32"]), ("HTTP/1.1 over TLS", True, ["--h1", "-c32"]), ("HTTP/2 over TLS", True, ["-c16", "-m32"])):
                h2load(results, f"{what}, {version}", host, node, tls, flags, count)
    if missing := lab.missing("wrk"):
        results.skip("wrk", missing)
    else:
        for what, host in (("files", files), ("a program", upstream)):
            if host:
                wrk(results, what, host, lab.cluster.near)


def upstream_of(lab):
    """nginx, which closes its connections after so many requests, as many programs do."""
    if lab.missing("nginx"):
        return None
    return lab.cluster.serve("upstream", BACKENDS, "sh upstream.sh", {"NGINX": lab.find("nginx")})[0]


def h2load(results, what, host, node, tls, flags, count):
    address, port = node.address(tls)
    scheme = "https" if tls else "http"
    words = ["h2load", f"-n{count}", "-t2", *flags, "--connect-to", f"{address}:{port}", f"{scheme}://{host}:{port}/"]
    said = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_SECONDS).stdout
    line = re.search(r"requests: (\d+) total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", said)
    codes = re.search(r"status codes: (\d+) 2xx", said)
    if not line or not codes:
        results.check(f"h2load, {what}", False, said[-300:])
        return
    succeeded, failed, errored, timeout = (int(line[n]) for n in range(3, 7))
    good = min(succeeded, int(codes[1]))
    wrong = [] if good == count and not failed + errored + timeout else [line[0], codes[0]]
    results.add(f"h2load, {what}", good, count, wrong)


def wrk(results, what, host, node):
    address, port = node.address(False)
    words = ["wrk", "-t2", "-c64", f"-d{WRK_SECONDS}s", "-H", f"Host: {host}", f"http://{address}:{port}/"]
    said = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_SECONDS).stdout
    done = re.search(r"(\d+) requests in", said)
    wrong = [line.strip() for line in said.splitlines() if "Socket errors" in line or "Non-2xx" in line]
    count = int(done[1]) if done else 0
    results.add(f"wrk, {what}", count if not wrong else 0, count, wrong if done else [said[-300:] or "nothing was said"])
