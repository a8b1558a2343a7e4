"""What came out: one row for each thing that was checked, and the table of all."""

import json
from dataclasses import asdict, dataclass, field

PASSED, FAILED, SKIPPED = "passed", "FAILED", "skipped"


@dataclass
class Row:
    subject: str
    what: str
    outcome: str
    # Cases that came out as expected, of how many.
    good: int = 1
    of: int = 1
    note: str = ""
    failures: list = field(default_factory=list)


class Results:
    def __init__(self, subject):
        self.subject = subject
        self.rows = []

    def add(self, what, good, of, failures=(), note=""):
        outcome = PASSED if good == of and not failures else FAILED
        row = Row(self.subject, what, outcome, good, of, note, list(failures))
        self.rows.append(row)
        show(row)

    def check(self, what, good, note=""):
        self.add(what, int(bool(good)), 1, [] if good else [note or "not so"], note)

    def skip(self, what, why):
        row = Row(self.subject, what, SKIPPED, 0, 0, why)
        self.rows.append(row)
        show(row)


def show(row):
    print(f"  {row.outcome:8} {row.good:>4}/{row.of:<4} {row.what}{': ' + row.note if row.note else ''}", flush=True)
    for failure in row.failures[:20]:
        print(f"             {failure}")
    if len(row.failures) > 20:
        print(f"             and {len(row.failures) - 20} more")


def write(path, facts, rows):
    text = json.dumps({**facts, "rows": [asdict(row) for row in rows]}, indent=1)
    path.write_text(text + "\n")


def table(rows):
    lines = ["| subject | what | cases | outcome |", "|---|---|---|---|"]
    for row in rows:
        note = f" ({row.note})" if row.note else ""
        lines.append(f"| {row.subject} | {row.what}{note} | {row.good} of {row.of} | {row.outcome} |")
    return "\n".join(lines)
