"""Requests of HTTP/2 that would be others when they are written down in HTTP/1.1 (RFC 9113 sections 8.2.1, 8.2.2, 8.3.1, 10.3)."""

from dataclasses import dataclass

from corpus import REFUSE, Seen
from http2 import CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, block, frame

SMUGGLED = "GET /smuggled HTTP/1.1\r\nHost: {host}\r\n\r\n"


@dataclass
class Case:
    name: str
    fields: list
    body: bytes | None = None
    reads: list | None = REFUSE
    or_refuse: bool = False
    # Wrong only by what comes behind its head, which the instance may have by then; the client has to be told.
    late: list | None = None
    trailers: list | None = None
    # The content in so many frames, and the fields in two.
    pieces: int = 1
    cut: bool = False

    def frames(self, fill):
        fields = [(fill(n), fill(v)) for n, v in self.fields]
        whole = block(fields)
        ends = END_STREAM if self.body is None and self.trailers is None else 0
        if self.cut:
            half = len(whole) // 2
            out = frame(HEADERS, ends, 1, whole[:half]) + frame(CONTINUATION, END_HEADERS, 1, whole[half:])
        else:
            out = frame(HEADERS, ends | END_HEADERS, 1, whole)
        if self.body is not None:
            body = fill(self.body)
            size = max(1, -(-len(body) // self.pieces))
            cuts = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
            for index, piece in enumerate(cuts):
                last = index == len(cuts) - 1 and self.trailers is None
                out += frame(DATA, END_STREAM if last else 0, 1, piece)
        if self.trailers is not None:
            out += frame(HEADERS, END_STREAM | END_HEADERS, 1, block([(fill(n), fill(v)) for n, v in self.trailers]))
        return out


CASES: list[Case] = []


def pseudo(method="GET", path="/c/{id}", authority="{host}", scheme="http"):
    named = [(":method", method), (":scheme", scheme), (":authority", authority), (":path", path)]
    return [(n, v) for n, v in named if v is not None]


def case(name, fields, body=None, reads=REFUSE, **more):
    CASES.append(Case(name, fields, body, reads, **more))


ONE = [Seen()]
HELLO = [Seen("POST", body=b"hello")]
POST = pseudo("POST")

case("a GET", pseudo(), reads=ONE)
case("a POST", POST, b"hello", HELLO)
case("a POST in five frames", POST, b"hello", HELLO, pieces=5)
case("fields in two frames", pseudo(), reads=ONE, cut=True)
case("content that is a request", POST, SMUGGLED.encode(), [Seen("POST", body=SMUGGLED.encode())])
case("content that is a last chunk and a request", POST, b"0\r\n\r\n" + SMUGGLED.encode(), [Seen("POST", body=b"0\r\n\r\n" + SMUGGLED.encode())])
case("content of a GET", pseudo(), SMUGGLED.encode(), [Seen("GET", body=SMUGGLED.encode())])

# Content-Length (8.1.1)
for name, value, body in [
    ("shorter than the content", "4", b"hello"), ("zero, with content", "0", SMUGGLED.encode()), ("longer than the content", "6", b"hello"),
    ("signed", "+5", b"hello"), ("negative", "-5", b"hello"), ("hexadecimal", "0x5", b"hello"), ("a list", "5, 5", b"hello"), ("empty", "", b"hello"),
    ("with a line end and a request", "5\r\n\r\nGET /smuggled HTTP/1.1\r\nX: y", b"hello"), ("overlong", "18446744073709551621", b"hello"), ("letters", "5x", b"hello"),
]:  # fmt: skip
    late = [Seen("POST")] if value == "0" else None
    case(f"content-length: {name}", [*POST, ("content-length", value)], body, late=late)
case("content-length: longer, without content", [*POST, ("content-length", "5")])
case("content-length: twice, different", [*POST, ("content-length", "5"), ("content-length", "0")], b"hello")
case("content-length: twice, the same", [*POST, ("content-length", "5"), ("content-length", "5")], b"hello", HELLO, or_refuse=True)
case("content-length: as it is", [*POST, ("content-length", "5")], b"hello", HELLO)
case("content-length: spaces around it", [*POST, ("content-length", " 5 ")], b"hello", HELLO, or_refuse=True)

# Fields of one connection (8.2.2)
for name, value in [
    ("transfer-encoding", "chunked"), ("transfer-encoding", "identity"), ("transfer-encoding", ""), ("connection", "close"), ("connection", "keep-alive"), ("connection", "transfer-encoding"),
    ("keep-alive", "timeout=5"), ("proxy-connection", "close"), ("upgrade", "websocket"), ("upgrade", "h2c"), ("te", "chunked"), ("te", "trailers, chunked"),
]:  # fmt: skip
    case(f"{name}: {value or 'empty'}", [*POST, (name, value)], b"0\r\n\r\n" + SMUGGLED.encode())
case("te: trailers", [*pseudo(), ("te", "trailers")], reads=ONE)
case("transfer_encoding is another field", [*POST, ("transfer_encoding", "chunked")], b"hello", HELLO, or_refuse=True)
case("http2-settings is not passed on", [*pseudo(), ("http2-settings", "AAMAAABk")], reads=ONE, or_refuse=True)

# Names and values (8.2.1)
for what, text in {
    "CR LF and a field": "a\r\nTransfer-Encoding: chunked", "CR LF and a request": "a\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: {host}\r\nX: y", "LF": "a\nb", "CR": "a\rb", "NUL": "a\x00b",
    "a line end first": "\r\na", "a line end last": "a\r\n", "an LF last": "a\n",
}.items():  # fmt: skip
    case(f"a value with {what}", [*pseudo(), ("x", text)])
    case(f"a name with {what}", [*pseudo(), (f"x{text}", "y")])
case("a value with a space first", [*pseudo(), ("x", " a")], reads=ONE, or_refuse=True)
case("a value with a tab last", [*pseudo(), ("x", "a\t")], reads=ONE, or_refuse=True)
for what, name in {
    "an upper-case name": "X-Y", "an empty name": "", "a name with a space": "x y", "a name with a colon": "x:y", "a name that is a request": "get /smuggled http/1.1\r\nx",
    "a name with bytes over 127": "x\xef", "a name with a tab": "x\t", "a name with brackets": "x[]", "a name with DEL": "x\x7f",
}.items():  # fmt: skip
    case(what, [*pseudo(), (name, "y")])

# Pseudo-fields (8.3, 8.3.1)
for what, text in {
    "CR LF": "/c/{id} HTTP/1.1\r\nTransfer-Encoding: chunked\r\nX: y", "a request": "/c/{id} HTTP/1.1\r\n\r\nGET /smuggled", "a space": "/c/{id} x", "a tab": "/c/{id}\tx", "LF": "/c/{id}\nx", "NUL": "/c/{id}\x00",
    "no slash": "c/{id}", "a host": "http://other.test/c/{id}", "nothing": "", "an authority": "other.test:80",
}.items():  # fmt: skip
    case(f":path with {what}", pseudo(path=text))
case(":path with two slashes", pseudo(path="//c/{id}"), reads=[Seen("GET", "//c/{id}")])
case(":path with bytes over 127", pseudo(path="/c/{id}\xef"), reads=[Seen("GET", "/c/{id}\xef")], or_refuse=True)
for what, text in {
    "CR LF": "GET / HTTP/1.1\r\nX: y\r\n\r\nGET", "a space": "GET /smuggled", "nothing": "", "NUL": "G\x00ET", "a colon": "GET:", "brackets": "G[]T",
}.items():  # fmt: skip
    case(f":method with {what}", pseudo(text))
for what, text in {
    "CR LF": "{host}\r\nX: y", "a request": "{host}\r\n\r\nGET /smuggled HTTP/1.1\r\nX: y", "a space": "{host} x", "a path": "{host}/x", "a user": "user@{host}", "NUL": "{host}\x00", "a query": "{host}?x", "a fragment": "{host}#x",
    "a bad port": "{host}:80x", "nothing": "", "a comma": "{host},other.test", "a backslash": "{host}\\x", "bytes over 127": "{host}\xef",
}.items():  # fmt: skip
    case(f":authority with {what}", pseudo(authority=text))
for what, text in {
    "CR LF": "http\r\nX: y", "a host": "http://other.test/?", "nothing": "", "a space": "http x", "a request": "http://{host}/smuggled HTTP/1.1\r\nX: y",
}.items():  # fmt: skip
    case(f":scheme with {what}", pseudo(scheme=text), reads=REFUSE)
case("Host alone", [*pseudo(authority=None), ("host", "{host}")], reads=ONE)
case("Host that is the same", [*pseudo(), ("host", "{host}")], reads=ONE, or_refuse=True)
case("Host that is another", [*pseudo(), ("host", "other.test")])
case("two Hosts", [*pseudo(authority=None), ("host", "{host}"), ("host", "other.test")])
case("Host with CR LF", [*pseudo(authority=None), ("host", "{host}\r\nX: y")])
case("neither :authority nor Host", pseudo(authority=None))
for what in (":method", ":path", ":scheme", ":authority"):
    kept = dict(pseudo())
    case(f"{what} twice", [*pseudo(), (what, kept[what])])
    if what != ":authority":
        case(f"no {what}", [(n, v) for n, v in pseudo() if n != what])
case("a pseudo-field behind a field", [*pseudo()[:3], ("x", "y"), (":path", "/c/{id}")])
case("a pseudo-field that nobody knows", [*pseudo(), (":smuggled", "y")])
case(":status in a request", [*pseudo(), (":status", "200")])
case("CONNECT without :protocol", [(":method", "CONNECT"), (":authority", "{host}:80")])
case("CONNECT to an unknown :protocol", [*pseudo("CONNECT"), (":protocol", "smuggle")], SMUGGLED.encode())
case(":protocol on GET", [*pseudo(), (":protocol", "websocket")])
case("CONNECT for WebSocket whose content is a request", [*pseudo("CONNECT"), (":protocol", "websocket"), ("sec-websocket-version", "13")], SMUGGLED.encode(),
     [Seen()], or_refuse=True)  # fmt: skip

# Trailers (8.1)
case("trailers", POST, b"hello", HELLO, trailers=[("x-sum", "1")])
case("a trailer with CR LF", POST, b"hello", trailers=[("x-sum", "1\r\n\r\nGET /smuggled HTTP/1.1\r\nX: y")])
case("a trailer that is content-length", POST, b"hello", HELLO, or_refuse=True, trailers=[("content-length", "50")])
case("a trailer that is transfer-encoding", POST, b"hello", or_refuse=True, trailers=[("transfer-encoding", "chunked")])
case("a trailer that is a pseudo-field", POST, b"hello", HELLO, or_refuse=True, trailers=[(":path", "/smuggled")])
case("an upper-case trailer", POST, b"hello", trailers=[("X-Sum", "1")])
