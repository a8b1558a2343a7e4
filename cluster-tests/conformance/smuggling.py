"""Request smuggling: each payload of the corpus to the edge, before each kind of instance.

What counts is what the instance understood, which it writes down. A probe behind each payload goes through the same
connections to the instance: whatever a payload left there shows in front of it, or in its answer.
"""

import json
import socket
import time

import corpus
import corpus_heads  # noqa: F401  (adds its cases)
import corpus_h2
import http1
import http2
from cluster import BACKENDS

# An edge that waits for more of a refused request than there is has not refused it.
WAIT_SECONDS = 4
SLOW_SECONDS = 1
ALONE_SECONDS = 0.3
OTHER_HOST = "another.conf.test"


class Instance:
    """A deployed backend and its record."""

    def __init__(self, lab, kind, command, env):
        self.kind = kind
        self.record = lab.cluster.folder / f"{kind}.record"
        self.record.touch()
        self.host, self.address, _ = lab.cluster.serve(kind, BACKENDS, command, {"RECORD": self.record, **env})
        self.read = 0
        # What may be written down at any time, of requests whose wrong came behind their heads.
        self.late = []

    def seen(self):
        """What was written down since this was asked last."""
        with open(self.record, "rb") as file:
            file.seek(self.read)
            lines = file.read()
        whole = lines.rfind(b"\n") + 1
        self.read += whole
        return [json.loads(line) for line in lines[:whole].splitlines()]


def instances(lab):
    """Kind, command, environment and what is missing for it."""
    python = lab.python_path
    record_service = lab.programs / "record-service"
    return [
        ("nginx", "sh nginx.sh", {"NGINX": lab.find("nginx") or ""}, lab.missing("nginx")),
        ("haproxy", "sh haproxy.sh", {"HAPROXY": lab.find("haproxy") or ""}, lab.missing("haproxy")),
        ("node", "exec node node.js", {}, lab.missing("node")),
        ("gunicorn", 'exec "$PYTHON" -m gunicorn --workers 1 --threads 2 --keep-alive 30 --bind 127.0.0.1:$PORT wsgi:application',
         {"PYTHONPATH": python}, lab.missing_module("gunicorn")),  # fmt: skip
        ("hyper", f"exec {record_service}", {}, None if record_service.exists() else f"{record_service} is not built"),
    ]


def run(lab, results):
    edge = lab.cluster.near
    for kind, command, env, missing in instances(lab):
        if missing:
            results.skip(kind, missing)
            continue
        instance = Instance(lab, kind, command, env)
        instance.seen()
        if lab.arguments.alone:
            alone = sum(is_misled(case, number, instance) for number, case in enumerate(corpus.CASES))
            print(f"  {kind} without an edge takes {alone} of {len(corpus.CASES)} for something else than a strict reader")
        judge(results, f"HTTP/1.1 before {kind}", corpus.CASES, instance, lambda c, i, n: ask_h1(c, i, n, edge.address(False)), edge)
        judge(results, f"HTTP/2 before {kind}", corpus_h2.CASES, instance, lambda c, i, n: ask_h2(c, i, n, edge.address(False)), edge)
        if kind == "hyper":
            tls = http1.trusting(lab.cluster.ca, "http/1.1")
            judge(results, f"HTTP/1.1 over TLS before {kind}", corpus.CASES, instance,
                  lambda c, i, n: ask_h1(c, i, n, edge.address(True), tls), edge)  # fmt: skip
            far = lab.cluster.far
            judge(results, f"HTTP/1.1 through another node before {kind}", corpus.CASES, instance,
                  lambda c, i, n: ask_h1(c, i, n, far.address(False)), far)  # fmt: skip


def judge(results, what, cases, instance, ask, edge):
    failures, slow, began, by_itself = [], [], time.monotonic(), 0
    for number, case in enumerate(cases):
        start = time.monotonic()
        problem, refused_behind = one(case, number, instance, ask, edge)
        if time.monotonic() - start > SLOW_SECONDS:
            slow.append(case.name)
        by_itself += refused_behind
        if problem:
            kind = getattr(case, "kind", "h2")
            failures.append(f"{kind}: {case.name}: {problem}")
    note = f"{time.monotonic() - began:.0f} s"
    if by_itself:
        note += f", {by_itself} good ones refused by {instance.kind} itself"
    if slow:
        note += f", waited for in {', '.join(slow)}"
    results.add(what, len(cases) - len(failures), len(cases), failures, note)


def filler(number, host):
    def fill(text):
        pairs = [("{id}", str(number)), ("{host}", host), ("{HOST}", host.upper()), ("other.test", OTHER_HOST)]
        for before, after in pairs:
            text = text.replace(before, after) if isinstance(text, str) else text.replace(before.encode(), after.encode())
        return text

    return fill


def ask_h1(case, instance, fill, address, tls=None):
    """Refused, in words of what was answered, and what is wrong with the refusal."""
    expected = case.reads or []
    answers, ended = http1.say(address, fill(case.data), max(1, len(expected)), case.methods, tls, instance.host, WAIT_SECONDS)
    refused = next((a for a in answers if a.status >= 400), None)
    wrong = None
    if refused is None:
        wrong = f"not refused: {answers or 'no answer'}"
    elif refused.status not in case.statuses:
        wrong = f"refused with {refused.status}"
    elif not ended and case.closes:
        wrong = f"{refused.status}, and the connection stays open"
    return refused is not None, wrong, answers


def ask_h2(case, instance, fill, address):
    said = http2.say(address, case.frames(fill), seconds=WAIT_SECONDS)
    return said.refused, None if said.refused else f"not refused: {said}", said


def one(case, number, instance, ask, edge):
    """What is wrong, and whether the instance refused by its own rules what the edge passed on."""
    fill = filler(number, instance.host)
    refused, wrong, answers = ask(case, instance, fill)
    problem = probe(edge.address(False), instance.host, number)
    if problem:
        return problem, False
    seen = instance.seen()
    probes = [s for s in seen if s["target"] == f"/probe/{number}"]
    if len(probes) != 1:
        return f"the probe was seen {len(probes)} times, among {brief(seen)}", False
    hosts = {s["host"].lower().split(":")[0].rstrip(".") for s in seen}
    if hosts - {instance.host}:
        return f"the instance was told host {hosts}", False
    late = [written(s, fill) for s in getattr(case, "late", None) or []]
    instance.late += late
    got = [(s["method"], s["target"], s["body"]) for s in seen if s is not probes[0] and "broken" not in s]
    got = [s for s in got if s not in instance.late]
    if case.reads is None:
        return (f"the instance saw {brief(got)}" if got else wrong), False
    expected = [written(s, fill) for s in case.reads]
    if got == expected:
        return None, False
    # Nothing but a part of what was meant, and a refusal: by the edge where it may, or by the instance's own rules.
    if got == expected[: len(got)] and refused:
        if case.or_refuse:
            return None, False
        if not by_edge(answers):
            return None, True
    return f"seen {brief(got)}, not {brief(expected)}; answered {answers}", False


def is_misled(case, number, instance):
    """Whether the instance by itself takes the payload for requests that a strict reader does not find.

    Says how much there is for an edge to keep away, and that the corpus would show it if the edge let it through.
    """
    fill = filler(number, instance.host)
    count = max(1, len(case.reads or []))
    try:
        http1.say(instance.address, fill(case.data), count + 1, case.methods, seconds=ALONE_SECONDS)
    except ValueError:
        # An answer of HTTP/0.9, for one.
        pass
    got = [(s["method"], s["target"], s["body"]) for s in instance.seen() if "broken" not in s]
    expected = [written(s, fill) for s in case.reads or []]
    return got != expected[: len(got)]


def written(seen, fill):
    return seen.method, fill(seen.target), fill(seen.body).decode("latin-1")


def by_edge(answers):
    """Whether the refusal is the edge's own: those have a request's id and a text of the edge."""
    answers = answers if isinstance(answers, list) else [answers]
    return any((a.status or 400) >= 400 and b"request id" in a.body.lower() for a in answers)


def brief(list_):
    return str(list_)[:300]


def probe(address, host, number):
    """A request that has to be answered as if nothing had been before it."""
    data = f"GET /probe/{number} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    try:
        answers, _ = http1.say(address, data, 1)
    except (OSError, ValueError, socket.timeout) as error:
        return f"the probe behind it: {error}"
    if len(answers) != 1 or answers[0].status != 200:
        return f"the probe behind it was answered {answers}"
    if json.loads(answers[0].body)["target"] != f"/probe/{number}":
        return f"the probe behind it got another's answer: {answers[0].body[:200]}"
    return None
