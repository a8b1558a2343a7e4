"""Requests that two readers might end in different places, or take for different requests, by class.

The classes are those that the HTTP Garden's list of findings, the literature on request smuggling and RFC 9112 name; the cases are
written for this file. `{id}` and `{host}` are filled in. `/smuggled` is the target of a request that must not be seen by
anybody unless the strict reading of RFC 9112 has it.

What is expected of the edge:
  REFUSE  an answer of 400 or above by the edge itself, then the connection's end; the instance sees nothing.
  Reads   the requests that a strict reader finds. The edge may refuse as well (RFC 9112 lets it) where `or_refuse`.
"""

from dataclasses import dataclass, field

REFUSE = None


@dataclass
class Seen:
    """One request as a strict reader has it."""

    method: str = "GET"
    target: str = "/c/{id}"
    body: bytes = b""


@dataclass
class Case:
    kind: str
    name: str
    data: bytes
    reads: list | None = REFUSE
    or_refuse: bool = False
    # Statuses of refusals.
    statuses: tuple = (400, 501)
    # Of the requests, where an answer's end depends on them.
    methods: list = field(default_factory=list)
    # Whether a refusal has to end the connection: not where the next request's beginning is beyond doubt.
    closes: bool = True


CASES: list[Case] = []

# Refused for what they ask, not for where they end.
ENDS_ARE_CLEAR = ("Host", "targets", "methods")

HOST = "Host: {host}\r\n"
SMUGGLED = "GET /smuggled HTTP/1.1\r\nHost: {host}\r\n\r\n"


def case(kind, name, data, reads=REFUSE, **more):
    raw = data.encode("latin-1") if isinstance(data, str) else data
    more.setdefault("closes", kind not in ENDS_ARE_CLEAR)
    CASES.append(Case(kind, name, raw, reads, **more))


def post(kind, name, fields, body, reads=REFUSE, method="POST", version="1.1", **more):
    case(kind, name, f"{method} /c/{{id}} HTTP/{version}\r\n{HOST}{fields}\r\n{body}", reads, **more)


def posted(body, method="POST"):
    return [Seen(method, body=body)]


# --- both lengths (RFC 9112 section 6.1: a proxy has to close after it, and ought to refuse)
CHUNKED_THEN_SMUGGLED = "0\r\n\r\n" + SMUGGLED
for name, fields in {
    "CL then TE": "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
    "TE then CL": "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n",
    "CL zero then TE": "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
    "TE then CL of all that follows": "Transfer-Encoding: chunked\r\nContent-Length: 60\r\n",
    "CL with TE in another case": "Content-Length: 6\r\nTRANSFER-ENCODING: CHUNKED\r\n",
    "CL with TE behind a tab": "Content-Length: 6\r\nTransfer-Encoding:\tchunked\r\n",
    "CL with TE named by Connection": "Connection: transfer-encoding\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n",
    "TE with CL named by Connection": "Connection: content-length\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n",
}.items():
    post("CL and TE", name, fields, CHUNKED_THEN_SMUGGLED)
post("CL and TE", "CL.TE: what is left is a beginning", "Content-Length: 35\r\nTransfer-Encoding: chunked\r\n",
     "0\r\n\r\nGET /smuggled HTTP/1.1\r\nX: ")  # fmt: skip
post("CL and TE", "TE.CL: the chunk holds a request", "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
     "2e\r\nGET /smuggled HTTP/1.1\r\nContent-Length: 15\r\n\r\n\r\n0\r\n\r\n")  # fmt: skip

# --- Content-Length (RFC 9110 section 8.6)
for name, value in {
    "signed, plus": "+5", "signed, minus": "-5", "minus zero": "-0", "hexadecimal": "0x5", "octal with o": "0o5",
    "underscore": "1_0", "empty": "", "letters behind": "5Z", "letters before": "Z5", "spaces within": "5 5",
    "a list of equals": "5, 5", "a list of different ones": "5, 6", "a comma behind": "5,", "a comma before": ",5",
    "semicolon": "5;", "decimals": "5.0", "exponent": "5e0", "quoted": '"5"', "overlong": "18446744073709551621",
    "overlong by 32 bits": "99999999999999999999999999999", "negative of 64 bits": "-18446744073709551611",
    "a vertical tab before": "\x0b5", "a form feed behind": "5\x0c", "NUL behind": "5\x00", "a no-break space before": "\xa05",
    "next line behind": "5\x85", "a superscript": "\xb9", "a tab within": "5\t5", "NUL within": "5\x006",
}.items():  # fmt: skip
    post("Content-Length", name, f"Content-Length: {value}\r\n", "hello" + SMUGGLED)
for name, first, second in [
    ("twice the same", "5", "5"), ("first smaller", "5", "60"), ("first larger", "60", "5"), ("zero and five", "0", "5"),
    ("five and nothing", "5", ""), ("five and letters", "5", "x"),
]:  # fmt: skip
    post("Content-Length", name, f"Content-Length: {first}\r\nContent-Length: {second}\r\n", "hello" + SMUGGLED)
post("Content-Length", "a space before the colon", "Content-Length : 5\r\n", "hello" + SMUGGLED)
post("Content-Length", "a tab before the colon", "Content-Length\t: 5\r\n", "hello" + SMUGGLED)
post("Content-Length", "a space before the name", " Content-Length: 5\r\n", "hello" + SMUGGLED)
post("Content-Length", "no colon", "Content-Length 5\r\n", "hello" + SMUGGLED)
post("Content-Length", "next line in the name", "Content-Length\x85: 5\r\n", "hello" + SMUGGLED)
post("Content-Length", "NUL in the name", "Content\x00-Length: 5\r\n", "hello" + SMUGGLED)
post("Content-Length", "underscore in the name is another field", "Content_Length: 5\r\n", SMUGGLED,
     [Seen("POST"), Seen("GET", "/smuggled")], or_refuse=True)  # fmt: skip
post("Content-Length", "leading zeros are decimal", "Content-Length: 010\r\n", "0123456789", posted(b"0123456789"))
post("Content-Length", "spaces and tabs around it", "Content-Length: \t 5 \t\r\n", "hello", posted(b"hello"))
post("Content-Length", "many leading zeros", f"Content-Length: {'0' * 40}5\r\n", "hello", posted(b"hello"), or_refuse=True)
post("Content-Length", "on GET", "Content-Length: 5\r\n", "hello", posted(b"hello", "GET"), method="GET")
post("Content-Length", "on HEAD", "Content-Length: 5\r\n", "hello", posted(b"hello", "HEAD"), method="HEAD", methods=["HEAD"])
post("Content-Length", "on DELETE", "Content-Length: 5\r\n", "hello", posted(b"hello", "DELETE"), method="DELETE")

# --- Transfer-Encoding (RFC 9112 section 6.1)
for name, value in {
    "xchunked": "xchunked", "chunkedx": "chunkedx", "a comma before": ",chunked", "a comma behind": "chunked,",
    "a list with identity": "identity, chunked", "identity behind": "chunked, identity", "twice in a list": "chunked, chunked",
    "gzip before": "gzip, chunked", "gzip alone": "gzip", "gzip behind": "chunked, gzip", "quoted": '"chunked"', "a parameter": "chunked;q=1",
    "a bare parameter": "chunked;", "a space within": "chun ked", "a vertical tab before": "\x0bchunked", "a vertical tab behind": "chunked\x0b",
    "a form feed behind": "chunked\x0c", "NUL behind": "chunked\x00", "a no-break space before": "\xa0chunked", "next line behind": "chunked\x85",
    "identity": "identity", "empty": "", "cow": "cow", "a unicode k": "chun\xe2\x84\xaaed", "a colon behind": "chunked:",
    "a CR behind": "chunked\r", "a CR before": "\rchunked", "an LF before": "\nchunked", "brackets": "[chunked]",
}.items():  # fmt: skip
    post("Transfer-Encoding", name, f"Transfer-Encoding: {value}\r\n", CHUNKED_THEN_SMUGGLED)
    post("Transfer-Encoding", f"{name}, with CL", f"Transfer-Encoding: {value}\r\nContent-Length: 5\r\n", CHUNKED_THEN_SMUGGLED)
for name, fields in {
    "twice": "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    "chunked and identity": "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
    "identity and chunked": "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
    "cow and chunked": "Transfer-Encoding: cow\r\nTransfer-Encoding: chunked\r\n",
    "a space before the colon": "Transfer-Encoding : chunked\r\n",
    "a tab before the colon": "Transfer-Encoding\t: chunked\r\n",
    "a space before the name": " Transfer-Encoding: chunked\r\n",
    "a vertical tab before the name": "\x0bTransfer-Encoding: chunked\r\n",
    "no colon": "Transfer-Encoding chunked\r\n",
    "NUL in the name": "Transfer\x00-Encoding: chunked\r\n",
    "folded": "Transfer-Encoding:\r\n chunked\r\n",
    "folded, with a tab": "Transfer-Encoding: chunked\r\n\tx\r\n",
    "hidden behind a lone LF": "X: y\nTransfer-Encoding: chunked\r\n",
    "hidden behind a lone CR": "X: y\rTransfer-Encoding: chunked\r\n",
    "hidden behind NUL": "X: y\x00Transfer-Encoding: chunked\r\n",
}.items():  # fmt: skip
    post("Transfer-Encoding", name, fields, CHUNKED_THEN_SMUGGLED)
post("Transfer-Encoding", "in HTTP/1.0", "Transfer-Encoding: chunked\r\n", CHUNKED_THEN_SMUGGLED, version="1.0")
post("Transfer-Encoding", "in HTTP/1.0, kept alive", "Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n", CHUNKED_THEN_SMUGGLED, version="1.0")
post("Transfer-Encoding", "in HTTP/1.0, with CL", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", CHUNKED_THEN_SMUGGLED, version="1.0")
post("Transfer-Encoding", "in other case", "tRANSFER-eNCODING: cHUNKED\r\n", "5\r\nhello\r\n0\r\n\r\n", posted(b"hello"))
post("Transfer-Encoding", "behind tabs and spaces", "Transfer-Encoding: \t chunked \t\r\n", "5\r\nhello\r\n0\r\n\r\n", posted(b"hello"))
post("Transfer-Encoding", "on GET", "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n", posted(b"hello", "GET"), method="GET")
post("Transfer-Encoding", "underscore in the name is another field", "Transfer_Encoding: chunked\r\n", SMUGGLED,
     [Seen("POST"), Seen("GET", "/smuggled")], or_refuse=True)  # fmt: skip
post("Transfer-Encoding", "named by Connection", "Connection: close, transfer-encoding\r\nTransfer-Encoding: chunked\r\n",
     "5\r\nhello\r\n0\r\n\r\n", posted(b"hello"), or_refuse=True)  # fmt: skip

# --- chunks (RFC 9112 section 7.1)
for name, body in {
    "signed, plus": "+5\r\nhello\r\n0\r\n\r\n", "signed, minus": "-5\r\nhello\r\n0\r\n\r\n", "0x": "0x5\r\nhello\r\n0\r\n\r\n",
    "0X": "0X5\r\nhello\r\n0\r\n\r\n", "underscore": "0_5\r\nhello\r\n0\r\n\r\n", "a space before": " 5\r\nhello\r\n0\r\n\r\n",
    "a space behind": "5 \r\nhello\r\n0\r\n\r\n", "a tab behind": "5\t\r\nhello\r\n0\r\n\r\n", "a vertical tab behind": "5\x0b\r\nhello\r\n0\r\n\r\n",
    "empty size": "\r\nhello\r\n0\r\n\r\n", "an extra empty line": "5\r\nhello\r\n\r\n0\r\n\r\n", "no digit": "x\r\nhello\r\n0\r\n\r\n", "letters behind": "5g\r\nhello\r\n0\r\n\r\n",
    "overflow of 64 bits": "10000000000000005\r\nhello\r\n0\r\n\r\n", "overflow of 32 bits": "100000000000000000000000000000005\r\nhello\r\n0\r\n\r\n",
    "NUL behind": "5\x00\r\nhello\r\n0\r\n\r\n", "LF behind the size": "5\nhello\r\n0\r\n\r\n", "CR behind the size": "5\rhello\r\n0\r\n\r\n",
    "LF behind the data": "5\r\nhello\n0\r\n\r\n", "CR behind the data": "5\r\nhello\r0\r\n\r\n", "LF ends the last chunk": "5\r\nhello\r\n0\n\r\n",
    "LF ends the body": "5\r\nhello\r\n0\r\n\n", "LFs alone": "5\nhello\n0\n\n", "longer than its size": "3\r\nhello\r\n0\r\n\r\n", "any two bytes behind the data": "5\r\nhelloXX0\r\n\r\n",
    "CR CR LF behind the size": "5\r\r\nhello\r\n0\r\n\r\n", "a comma": "5,5\r\nhello\r\n0\r\n\r\n", "quoted": '"5"\r\nhello\r\n0\r\n\r\n',
}.items():  # fmt: skip
    post("chunk size", name, "Transfer-Encoding: chunked\r\n", body + SMUGGLED)
for name, body in {
    "LF within": "5;a\nb\r\nhello\r\n0\r\n\r\n", "CR within": "5;a\rb\r\nhello\r\n0\r\n\r\n", "CR CR within": "5\r\r;a\r\nhello\r\n0\r\n\r\n",
    "NUL within": "5;a\x00b\r\nhello\r\n0\r\n\r\n", "LF in quotes": '5;a="x\ny"\r\nhello\r\n0\r\n\r\n', "CR LF in quotes": '5;a="x\r\ny"\r\nhello\r\n0\r\n\r\n',
    "a space before the semicolon and LF": "5 ;a\nx\r\nhello\r\n0\r\n\r\n", "ended by LF": "5;a\nhello\r\n0\r\n\r\n", "of the last chunk, ended by LF": "5\r\nhello\r\n0;a\n\r\n",
    "endless": "5;" + "a" * 100_000 + "\r\nhello\r\n0\r\n\r\n",
}.items():  # fmt: skip
    post("chunk extension", name, "Transfer-Encoding: chunked\r\n", body + SMUGGLED)
for name, body in {
    "a name": "5;a\r\nhello\r\n0\r\n\r\n", "a value": "5;a=b\r\nhello\r\n0\r\n\r\n", "quoted": '5;a="b;c"\r\nhello\r\n0\r\n\r\n',
    "of the last chunk": "5\r\nhello\r\n0;a=b\r\n\r\n", "empty": "5;\r\nhello\r\n0\r\n\r\n", "spaces in it": "5; a = b\r\nhello\r\n0\r\n\r\n",
}.items():  # fmt: skip
    post("chunk extension", name, "Transfer-Encoding: chunked\r\n", body, posted(b"hello"), or_refuse=True)
post("chunk size", "leading zeros", "Transfer-Encoding: chunked\r\n", "0005\r\nhello\r\n000\r\n\r\n", posted(b"hello"))
post("chunk size", "upper and lower case", "Transfer-Encoding: chunked\r\n", "A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", posted(b"01234567890123456789"))
post("chunk size", "the final CR LF is missing", "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n" + SMUGGLED.replace("\r\n\r\n", "\r\nA: b\r\n\r\n"))
post("trailers", "one that is a field", "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", posted(b"hello"))
post("trailers", "Content-Length is not taken for one", "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\nContent-Length: 50\r\n\r\n",
     posted(b"hello"), or_refuse=True)  # fmt: skip
post("trailers", "Transfer-Encoding is not taken for one", "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
     posted(b"hello"), or_refuse=True)  # fmt: skip
post("trailers", "Host is not taken for one", "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\nHost: other.test\r\n\r\n",
     posted(b"hello"), or_refuse=True)  # fmt: skip
post("trailers", "a line without a colon", "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\nGET /smuggled HTTP/1.1\r\n\r\n")
post("trailers", "folded", "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\nX: 1\r\n 2\r\n\r\n")
post("trailers", "LF ends one", "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\nX: 1\n\r\n" + SMUGGLED)
post("trailers", "NUL in one", "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\nX: \x00\r\n\r\n" + SMUGGLED)
