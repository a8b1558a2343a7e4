"""Bytes to a socket, and the answers that come back, read by RFC 9112."""

import socket
import ssl
import time

PATIENCE_SECONDS = 10


class Answer:
    def __init__(self, status, fields, body, whole):
        self.status = status
        self.fields = fields
        self.body = body
        # Ended where it said it would.
        self.whole = whole

    def get(self, name):
        return next((v for n, v in self.fields if n == name), None)

    def __repr__(self):
        return f"{self.status} with {len(self.body)} bytes{'' if self.whole else ', cut off'}"


def connect(address, tls=None, name=None):
    """`tls` is an `ssl.SSLContext`."""
    s = socket.create_connection(address, PATIENCE_SECONDS)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return tls.wrap_socket(s, server_hostname=name) if tls else s


def trusting(ca, *alpn):
    context = ssl.create_default_context(cafile=str(ca))
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def parse(data, methods=(), ended=False):
    """The final answers in `data`, interim ones left out, and whether the last is still to come in part.

    `methods` are those of the requests; an answer to HEAD has no body.
    """
    answers, rest = [], data
    while rest:
        head, found, after = rest.partition(b"\r\n\r\n")
        if not found:
            return answers, True
        line, *lines = head.split(b"\r\n")
        words = line.split(b" ", 2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
            raise ValueError(f"no answer: {line[:80]!r}")
        status = int(words[1])
        fields = []
        for text in lines:
            name, _, value = text.partition(b":")
            fields.append((name.decode("latin-1").lower(), value.strip().decode("latin-1")))
        if 100 <= status < 200 and status != 101:
            rest = after
            continue
        method = methods[len(answers)] if len(answers) < len(methods) else "GET"
        body, rest, whole = split_body(status, dict(fields), method, after, ended)
        answers.append(Answer(status, fields, body, whole))
        if not whole:
            return answers, True
    return answers, False


def split_body(status, fields, method, data, ended):
    if method == "HEAD" or status in (101, 204, 304):
        return b"", data, True
    if fields.get("transfer-encoding", "").lower() == "chunked":
        body, at = b"", 0
        while True:
            end = data.find(b"\r\n", at)
            if end < 0:
                return body, b"", False
            size = int(data[at:end].split(b";")[0], 16)
            if size == 0:
                last = data.find(b"\r\n\r\n", end)
                return (body, data[last + 4 :], True) if last >= 0 else (body, b"", False)
            at = end + 2 + size + 2
            if at > len(data):
                return body + data[end + 2 :], b"", False
            body += data[end + 2 : end + 2 + size]
    if "content-length" in fields:
        length = int(fields["content-length"])
        return data[:length], data[length:], len(data) >= length
    return data, b"", ended


def say(address, data, count, methods=(), tls=None, name=None, seconds=PATIENCE_SECONDS):
    """Sends `data`, reads `count` final answers or to the connection's end; the answers and whether it was ended.

    A connection that says nothing more for `seconds` counts as open. The sending side stays open throughout: an edge that
    waits for more of a request is not to be told that there is none.
    """
    received, ended = b"", False
    with connect(address, tls, name) as s:
        s.settimeout(min(0.25, seconds))
        until = time.monotonic() + seconds
        try:
            s.sendall(data)
        except OSError:
            # Refused already: what was answered is still to be read.
            pass
        while time.monotonic() < until:
            answers, more = parse(received, methods)
            if len(answers) >= count and not more:
                break
            try:
                piece = s.recv(65536)
            except (TimeoutError, ssl.SSLWantReadError):
                continue
            except OSError:
                ended = True
                break
            if not piece:
                ended = True
                break
            received += piece
        answers, _ = parse(received, methods, ended)
        if not ended and answers and (answers[-1].get("connection") or "").lower() == "close":
            ended = is_ended(s)
    return answers, ended


def is_ended(s, seconds=5):
    """Whether the other side closes, as it said it would."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if not s.recv(65536):
                return True
        except (TimeoutError, ssl.SSLWantReadError):
            continue
        except OSError:
            return True
    return False
