"""curl, as people use it: versions, uploads, ranges, resumed downloads, compression, expectations, trailers."""

import hashlib
import json
import subprocess


LARGE_BYTES = 5_000_000
PATIENCE_SECONDS = "20"
# Waits so long for a 100 before it sends its body anyway; long enough to show that it did not have to.
EXPECT_MS = "8000"


class Curl:
    def __init__(self, lab, host):
        self.folder = lab.cluster.folder / "curl"
        self.folder.mkdir(exist_ok=True)
        self.host, self.ca = host, lab.cluster.ca
        self.near, self.far = lab.cluster.near, lab.cluster.far

    def ask(self, path, *flags, tls=False, node=None):
        """Status, version, body, and what curl says of it."""
        address, port = (node or self.near).address(tls)
        url = f"{'https' if tls else 'http'}://{self.host}:{port}{path}"
        out = self.folder / "body"
        out.write_bytes(b"")
        words = ["curl", "-sS", "-m", PATIENCE_SECONDS, "--noproxy", "*", "--connect-to", f"{self.host}:{port}:{address}:{port}"]
        words += ["--cacert", str(self.ca), "-D", str(self.folder / "head"), "-w", "%{http_code} %{http_version} %{time_total}"]
        if "-o" not in flags:
            words += ["-o", str(out)]
        done = subprocess.run([*words, *map(str, flags), url], capture_output=True)
        status, version, seconds = (done.stdout.decode().split() + ["0", "0", "0"])[:3]
        return Asked(int(status), version, float(seconds), out.read_bytes(), (self.folder / "head").read_text("latin-1"), done)


class Asked:
    def __init__(self, status, version, seconds, body, head, done):
        self.status, self.version, self.seconds, self.body, self.head = status, version, seconds, body, head
        self.done, self.code, self.error = done, done.returncode, done.stderr.decode().strip()

    def __repr__(self):
        return f"{self.status} in HTTP/{self.version}, {len(self.body)} bytes, exit code {self.code} {self.error}"


def run(lab, results):
    if missing := lab.missing("curl"):
        results.skip("curl", missing)
        return
    curl = Curl(lab, lab.app())
    large = curl.folder / "large"
    large.write_bytes(bytes(range(256)) * (LARGE_BYTES // 256))
    features = subprocess.run(["curl", "--version"], capture_output=True, text=True).stdout
    ways = [("HTTP/1.0", ["--http1.0"], False, None, "1.0"), ("HTTP/1.1", ["--http1.1"], False, None, "1.1"), ("HTTP/1.1 over TLS", ["--http1.1"], True, None, "1.1")]
    if "HTTP2" in features:
        ways += [
            ("HTTP/2 by prior knowledge", ["--http2-prior-knowledge"], False, None, "2"), ("HTTP/2 over TLS", ["--http2"], True, None, "2"),
            ("HTTP/2 asked for by an upgrade, which is not made", ["--http2"], False, None, "1.1"),
            ("HTTP/2 over TLS through another node", ["--http2"], True, curl.far, "2"),
        ]  # fmt: skip
    else:
        results.skip("HTTP/2", "this curl has none")
    for name, flags, tls, node, version in ways:
        asked = list(cases(curl, flags, tls, node, version, large))
        failures = [f"{what}: {answer}" for what, answer, good in asked if not good]
        results.add(name, len(asked) - len(failures), len(asked), failures)
    if "HTTP3" not in features:
        results.skip("HTTP/3", "this curl has none; see h3")
    versions_of_tls(curl, results)


def cases(curl, flags, tls, node, version, large):
    """What, what came, and whether that is right."""

    def ask(path, *more):
        return curl.ask(path, *flags, *more, tls=tls, node=node)

    def fine(asked, status=200):
        # An answer to HTTP/1.0 may be of HTTP/1.1 (RFC 9110 section 6.2).
        return asked.code == 0 and asked.status == status and asked.version in {version, "1.1" if version == "1.0" else version}

    digest = hashlib.sha256(large.read_bytes()).hexdigest()
    old = version == "1.0"
    a = ask("/anything?x=y")
    said = json.loads(a.body) if a.body else {}
    yield "get", a, fine(a) and said.get("path") == "/anything?x=y"
    a = ask("/bytes?n=1000", "--head")
    yield "head", a, fine(a) and "content-length: 1000" in a.head.lower()
    a = ask("/echo", "--data-binary", "hello")
    yield "post", a, fine(a) and a.body == b"hello"
    a = ask("/echo", "-H", "Expect:", "--data-binary", f"@{large}")
    yield "upload", a, fine(a) and hashlib.sha256(a.body).hexdigest() == digest
    # HTTP/1.0 has no chunks: curl refuses to send them.
    a = ask("/echo", *(["-H", "Expect:"] if old else ["-H", "Transfer-Encoding: chunked", "-H", "Expect:"]), "--data-binary", f"@{large}")
    yield "chunked", a, fine(a) and hashlib.sha256(a.body).hexdigest() == digest
    a = ask("/echo", *([] if old else ["-H", "Expect: 100-continue", "--expect100-timeout", int(EXPECT_MS) / 1000]), "--data-binary", f"@{large}")
    yield "expect", a, fine(a) and hashlib.sha256(a.body).hexdigest() == digest and a.seconds < int(EXPECT_MS) / 1000
    a = ask("/bytes?n=1000", "-r", "256-511")
    yield "range", a, fine(a, 206) and a.body == bytes(range(256)) and "content-range: bytes 256-511/1000" in a.head.lower()
    a = ask("/bytes?n=1024", "-r", "-256")
    yield "last bytes", a, fine(a, 206) and a.body == bytes(range(256))
    a = ask("/bytes?n=1000", "-r", "5000-6000")
    yield "no such range", a, fine(a, 416)
    part = curl.folder / "part"
    part.write_bytes(large.read_bytes()[:1_000_000])
    a = ask(f"/bytes?n={large.stat().st_size}", "-C", "-", "-o", part)
    yield "resumed", a, fine(a, 206) and hashlib.sha256(part.read_bytes()).hexdigest() == digest
    a = ask("/bytes?n=1000", "-r", "0-9", "-H", 'If-Range: "other"')
    yield "if-range", a, fine(a) and len(a.body) == 1000
    a = ask("/gzip", "--compressed")
    yield "compressed", a, fine(a) and len(a.body) == 100_000 and "content-encoding: gzip" in a.head.lower()
    a = ask("/gzip")
    yield "plain", a, fine(a) and len(a.body) == 100_000
    a = ask("/trailers", "-H", "TE: trailers")
    yield "trailers", a, fine(a) and a.body == b"onetwo" and (old or "x-sum: 6" in a.head.lower() or version == "2")
    a = ask("/stream?n=5")
    yield "stream", a, fine(a) and a.body == b"0\n1\n2\n3\n4\n"
    # Three over one connection. curl 7.88 cannot do that by prior knowledge, with nginx neither.
    if "--http2-prior-knowledge" not in flags:
        a = ask("/bytes?n=[10-12]", "-o", curl.folder / "many-#1", "-w", "%{num_connects} ")
        sizes = [(curl.folder / f"many-{n}").stat().st_size for n in (10, 11, 12)] if a.code == 0 else []
        connects = sum(int(n) for n in a.done.stdout.split())
        yield "many", a, sizes == [10, 11, 12] and connects == (3 if old else 1)
    a = ask(f"/bytes?n={large.stat().st_size}")
    yield "large", a, fine(a) and hashlib.sha256(a.body).hexdigest() == digest
    a = ask("/echo", "-T", large, "-H", "Expect:")
    yield "put", a, fine(a) and hashlib.sha256(a.body).hexdigest() == digest
    a = ask("/x", "-X", "OPTIONS")
    yield "options", a, fine(a) and json.loads(a.body)["method"] == "OPTIONS"


def versions_of_tls(curl, results):
    for version, allowed in (("1.0", False), ("1.1", False), ("1.2", True), ("1.3", True)):
        flags = ["--tlsv1.0", "--tls-max", version, "--ciphers", "DEFAULT@SECLEVEL=0"] if version < "1.3" else ["--tlsv1.3"]
        asked = curl.ask("/", *flags, tls=True)
        good = asked.code == 0 if allowed else asked.code == 35
        results.check(f"TLS {version} is {'served' if allowed else 'refused'}", good, "" if good else repr(asked))
