"""Checks the edge with programs that others wrote: `just conformance [SUBJECT…]`.

Installs nothing. What is missing is named and its part skipped; with --require it is a failure. Python's packages are found where
`--python-path` (or NEBULA_CONFORMANCE_PYTHON) says: `pip install --target FOLDER …`.
"""

import argparse
import importlib
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

sys.dont_write_bytecode = True
HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SUBJECTS = ["smuggling", "websocket", "h2spec", "clients", "load", "slow", "tls", "browser", "h3"]
# Not looked for on PATH only: Debian keeps servers there.
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


class Lab:
    """What all subjects share."""

    def __init__(self, arguments, cluster):
        self.arguments = arguments
        self.cluster = cluster
        self.programs = arguments.programs
        self.python_path = arguments.python_path

    def app(self):
        """The application that clients of all kinds ask; its host. `localhost` is for programs that cannot say another."""
        from cluster import BACKENDS

        env = {"PYTHON": sys.executable}
        return self.cluster.deploy("app", BACKENDS, 'exec "$PYTHON" app.py', env, flags=["--name", "localhost"])

    def find(self, program):
        return shutil.which(program) or shutil.which(program, path=SBIN)

    def missing(self, *programs):
        """What to say of those that are not there; nothing when all are."""
        lacking = [p for p in programs if not self.find(p)]
        return f"no {', no '.join(lacking)} (docs/proxy-conformance.md says where from)" if lacking else None

    def missing_module(self, *modules):
        lacking = [m for m in modules if importlib.util.find_spec(m) is None]
        return f"no Python package {', '.join(lacking)} (pip install --target FOLDER, --python-path FOLDER)" if lacking else None


def arguments():
    parser = argparse.ArgumentParser(prog="just conformance", description=__doc__)
    parser.add_argument("subjects", nargs="*", help=f"of {', '.join(SUBJECTS)}; all by default")
    parser.add_argument("--programs", type=Path, default=os.environ.get("NEBULA_TEST_BINARIES", ROOT / "target/release"),
                        help="folder with nodectl, nebula, record-service")  # fmt: skip
    parser.add_argument("--python-path", default=os.environ.get("NEBULA_CONFORMANCE_PYTHON", ""))
    parser.add_argument("--require", action="store_true", help="what is missing is a failure")
    parser.add_argument("--quick", action="store_true", help="fewer requests and cases, for CI")
    parser.add_argument("--alone", action="store_true", help="smuggling: also what instances make of the payloads without an edge")
    parser.add_argument("--results", type=Path, help="where to keep the rows as JSON; a whole run keeps bench/results/<date>-conformance.json")
    chosen = parser.parse_args()
    unknown = set(chosen.subjects) - set(SUBJECTS)
    if unknown:
        parser.error(f"no subject {', '.join(sorted(unknown))}; there are {', '.join(SUBJECTS)}")
    if not chosen.subjects and not chosen.quick and chosen.results is None:
        chosen.results = ROOT / "bench/results" / f"{datetime.now(timezone.utc):%Y-%m-%d}-conformance.json"
    chosen.subjects = chosen.subjects or SUBJECTS
    chosen.programs = Path(chosen.programs).resolve()
    for program in ("nodectl", "nebula"):
        if not (chosen.programs / program).exists():
            parser.error(f"{chosen.programs / program} is not there: cargo build --release, or --programs FOLDER")
    return chosen


def versions(lab):
    """The first line of what each program says of its version."""
    asked = {"nginx": "-v", "haproxy": "-v", "node": "--version", "curl": "--version", "h2load": "--version", "wrk": "-v", "h2spec": "--version",
             "slowhttptest": "-h", "chromium": "--version", str(lab.programs / "nodectl"): "--version"}  # fmt: skip
    said = {}
    for program, flag in asked.items():
        found = lab.find(program)
        if not found:
            continue
        done = subprocess.run([found, flag], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30)
        lines = [line for line in (done.stdout + done.stderr).splitlines() if any(c.isdigit() for c in line)]
        said[Path(program).name] = lines[0].strip() if lines else "of no version"
    for package in ("gunicorn", "wsproto", "h2", "hpack", "aioquic"):
        try:
            said[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return said


def main():
    chosen = arguments()
    if chosen.python_path:
        sys.path.insert(0, chosen.python_path)
    sys.path.insert(0, str(HERE))
    # So that nothing is left running where somebody ends this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    from cluster import Cluster
    from results import FAILED, SKIPPED, Results, table, write

    began, rows = time.monotonic(), []
    with Cluster(chosen.programs) as cluster:
        lab = Lab(chosen, cluster)
        for name in chosen.subjects:
            print(f"{name}", flush=True)
            results = Results(name)
            try:
                importlib.import_module(name).run(lab, results)
            except ModuleNotFoundError as error:
                results.skip(name, f"no Python package {error.name} (pip install --target FOLDER, --python-path FOLDER)")
            except Exception as error:  # one subject's trouble is not to hide the others' results
                results.check("could not be run", False, f"{type(error).__name__}: {error}")
            rows += results.rows
    print()
    print(table(rows))
    facts = {"when": datetime.now(timezone.utc).isoformat(timespec="seconds"), "seconds": round(time.monotonic() - began)}
    facts["programs"] = versions(lab)
    if chosen.results:
        write(chosen.results, facts, rows)
        print(f"\nkept: {chosen.results}")
    bad = [r for r in rows if r.outcome == FAILED or (chosen.require and r.outcome == SKIPPED)]
    if bad:
        print(f"\n{len(bad)} of {len(rows)} are not as expected")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
