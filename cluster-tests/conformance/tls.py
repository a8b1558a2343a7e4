"""TLS by testssl.sh: versions, suites and known weaknesses of what the edge offers."""

import json
import subprocess


PATIENCE_SECONDS = 420
# What testssl.sh says of the certificate and its names is of this run's own authority, not of the edge.
NOT_OURS = ("cert_", "DNS_", "grease", "scanTime", "engine_problem", "optimal_proto", "rating_", "grade", "overall_grade", "key_exchange", "cipher_strength", "protocol_support", "final_score", "IP")
BAD = ("LOW", "MEDIUM", "HIGH", "CRITICAL", "WARN", "FATAL")


def run(lab, results):
    if missing := lab.missing("testssl"):
        results.skip("testssl.sh", missing)
        return
    host, port = lab.app(), lab.cluster.near.tls
    report = lab.cluster.folder / "testssl.json"
    words = ["testssl", "--quiet", "--warnings", "off", "--color", "0", "--ip", "127.0.0.1", "--jsonfile", report]
    # Protocols, all ciphers of each, forward secrecy, the server's own choices, and vulnerabilities.
    words += ["-p", "-E", "-f", "-P", "-U", "--connect-timeout", "5", "--openssl-timeout", "5", f"{host}:{port}"]
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=PATIENCE_SECONDS, stdin=subprocess.DEVNULL)
    (lab.cluster.folder / "testssl.txt").write_text(done.stdout + done.stderr)
    if not report.exists():
        results.check("testssl.sh", False, (done.stdout + done.stderr)[-300:])
        return
    found = json.loads(report.read_text())
    ours = [f for f in found if not f["id"].startswith(NOT_OURS)]
    bad = [f"{f['severity']} {f['id']}: {f['finding']}" for f in ours if f["severity"] in BAD]
    results.add("testssl.sh finds nothing LOW or worse", len(ours) - len(bad), len(ours), bad)
    said = {f["id"]: f["finding"] for f in found}
    for name, offered in (("SSLv2", False), ("SSLv3", False), ("TLS1", False), ("TLS1_1", False), ("TLS1_2", True), ("TLS1_3", True)):
        is_offered = said.get(name, "").startswith("offered")
        results.check(f"{name} is {'offered' if offered else 'not offered'}", is_offered == offered, said.get(name, "nothing said"))
    suites = sorted({f["finding"].split()[-1] for f in found if f["id"].startswith("cipher-tls1_")})
    weak = [s for s in suites if not ("GCM" in s or "CHACHA20" in s)]
    results.add("suites are AEAD with forward secrecy", len(suites) - len(weak), len(suites), weak if suites else ["none was found"], ", ".join(suites))
