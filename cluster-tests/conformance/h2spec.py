"""HTTP/2's rules, by h2spec itself where it is on PATH; `src/proxy/tests/edge/h2_frames.rs` has its cases for CI."""

import subprocess
import xml.etree.ElementTree as tree


WAIT_SECONDS = 2
# Cases that may come out otherwise, and why that is left so.
KNOWN_IN_THE_CLEAR = {
    "http2/3.5: Sends invalid connection preface": "it may be HTTP/1.1, and is answered so: 400, and the connection ends",
}


def run(lab, results):
    missing = lab.missing("h2spec")
    if missing:
        results.skip("all cases", missing)
        return
    lab.app()
    for what, tls in (("in the clear", False), ("over TLS", True)):
        judge(lab, results, what, lab.cluster.near, tls)


def judge(lab, results, what, node, tls):
    report = lab.cluster.folder / f"h2spec-{'tls' if tls else 'plain'}.xml"
    words = ["h2spec", "-h", "localhost", "-p", str(node.address(tls)[1]), "-S", "-o", str(WAIT_SECONDS), "-j", str(report)]
    subprocess.run([*words, *(["-t", "-k"] if tls else [])], capture_output=True, timeout=600)
    good, failures, known = 0, [], []
    cases = [(suite, case) for suite in tree.parse(report).getroot() for case in suite.iter("testcase")]
    for _, case in cases:
        name = f"{case.get('package')}: {case.get('classname')}"
        # What it expected, a line each, and last what came.
        failed = case.find("error")
        if failed is None:
            good += 1
        elif not tls and name in KNOWN_IN_THE_CLEAR:
            good += 1
            known.append(name)
        else:
            failures.append(f"{name}: {' '.join((failed.text or '').split())}")
    note = f"{good - len(known)} as h2spec wants it; known: {', '.join(known)}" if known else ""
    results.add(f"{what} (--strict)", good, len(cases), failures, note)
