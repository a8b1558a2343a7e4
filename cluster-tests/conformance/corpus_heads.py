"""More of `corpus`: lines, fields, hosts, targets, methods, versions, upgrades, and what comes behind a refusal."""

from corpus import HOST, REFUSE, SMUGGLED, Seen, case, post

GET = "GET /c/{id} HTTP/1.1\r\n"
ONE = [Seen()]


def get(kind, name, fields, reads=REFUSE, host=HOST, **more):
    case(kind, name, f"{GET}{host}{fields}\r\n", reads, **more)


# --- line ends (RFC 9112 section 2.2: a lone LF may be taken for one; a lone CR has to be refused)
for name, data in {
    "LF behind the request line": "GET /c/{id} HTTP/1.1\nHost: {host}\r\n\r\n", "LF behind a field": "GET /c/{id} HTTP/1.1\r\nHost: {host}\nX: y\r\n\r\n",
    "LF everywhere": "GET /c/{id} HTTP/1.1\nHost: {host}\n\n", "LF ends the head": "GET /c/{id} HTTP/1.1\r\nHost: {host}\r\n\n",
    "CR behind a field": "GET /c/{id} HTTP/1.1\r\nHost: {host}\rX: y\r\n\r\n", "CR everywhere": "GET /c/{id} HTTP/1.1\rHost: {host}\r\r\r\n\r\n",
    "CR in a value": "GET /c/{id} HTTP/1.1\r\nHost: {host}\r\nX: a\rb\r\n\r\n", "CR CR LF": "GET /c/{id} HTTP/1.1\r\nHost: {host}\r\nX: a\r\r\n\r\n",
    "CR before the empty line": "GET /c/{id} HTTP/1.1\r\nHost: {host}\r\n\r\r\n\r\n", "CR and a byte for the head's end": "GET /c/{id} HTTP/1.1\r\nHost: {host}\r\n\rZGET /smuggled HTTP/1.1\r\nA: b\r\n\r\n",
    "LF CR": "GET /c/{id} HTTP/1.1\n\rHost: {host}\n\r\n\r\r\n\r\n", "LF in the target": "GET /c/{id}\nHTTP/1.1\r\nHost: {host}\r\n\r\n",
    "an LF ends a value with a request in it": "GET /c/{id} HTTP/1.1\r\nHost: {host}\r\nX:\n\nGET /smuggled HTTP/1.1\r\nHost: {host}\r\n\r\n",
}.items():  # fmt: skip
    case("line ends", name, data)
case("line ends", "empty lines before a request", "\r\n\r\nGET /c/{id} HTTP/1.1\r\nHost: {host}\r\n\r\n", ONE, or_refuse=True)
case("line ends", "a CR before a request", "\rGET /c/{id} HTTP/1.1\r\nHost: {host}\r\n\r\n")
case("line ends", "a space before a request", " GET /c/{id} HTTP/1.1\r\nHost: {host}\r\n\r\n")

# --- folding (section 5.2) and fields (5.1)
get("fields", "folded with a space", "X: a\r\n b\r\n")
get("fields", "folded with a tab", "X: a\r\n\tb\r\n")
get("fields", "folded before the first", "", host=" X: y\r\nHost: {host}\r\n")
get("fields", "a folded line that is a request", "X: a\r\n GET /smuggled HTTP/1.1\r\n")
get("fields", "folded with nothing", "X: a\r\n \r\n")
get("fields", "a space before the colon", "X : y\r\n")
get("fields", "no name", ": y\r\n")
get("fields", "neither name nor value", ":\r\nX: y\r\n")
get("fields", "no colon", "Xy\r\n")
get("fields", "a request line as a field", "GET /smuggled HTTP/1.1\r\n")
get("fields", "NUL in a value", "X: a\x00b\r\n")
get("fields", "a bell in a value", "X: a\x07b\r\n")
get("fields", "DEL in a value", "X: a\x7fb\r\n")
get("fields", "NUL in a name", "X\x00: a\r\n")
get("fields", "a space in a name", "X Y: a\r\n")
get("fields", "brackets in a name", "X[]: a\r\n")
get("fields", "bytes over 127 in a name", "X\xef: a\r\n")
get("fields", "bytes over 127 in a value", "X: \xef\xbf\r\n", ONE, or_refuse=True)
get("fields", "an empty value", "X:\r\n", ONE)
get("fields", "no space behind the colon", "X:y\r\n", ONE)
get("fields", "many", "".join(f"X-{n}: y\r\n" for n in range(500)), statuses=(431, 400))
get("fields", "endless", f"X: {'y' * 200_000}\r\n", statuses=(431, 400))

# --- Host (RFC 9112 section 3.2)
for name, host in {
    "none": "", "twice the same": "Host: {host}\r\nHost: {host}\r\n", "twice, different": "Host: {host}\r\nHost: other.test\r\n",
    "twice, in another case": "Host: {host}\r\nhOST: other.test\r\n", "a list": "Host: {host}, other.test\r\n", "empty": "Host:\r\n",
    "with a path": "Host: {host}/x\r\n", "with a user": "Host: other.test@{host}\r\n", "with a space": "Host: {host} other.test\r\n",
    "with a bad port": "Host: {host}:80x\r\n", "with two ports": "Host: {host}:80:81\r\n", "a space before the colon": "Host : {host}\r\n", "a space before the name": " Host: {host}\r\n",
    "with NUL": "Host: {host}\x00.other.test\r\n", "with a query": "Host: {host}?x\r\n", "with a fragment": "Host: {host}#x\r\n",
    "with a backslash": "Host: {host}\\other.test\r\n", "with a percent sign": "Host: {host}%2eother.test\r\n", "with bytes over 127": "Host: {host}\xef\r\n",
    "behind a folded line": "X: y\r\n Host: {host}\r\n",
}.items():  # fmt: skip
    get("Host", name, "", host=host, statuses=(400, 404, 421))
get("Host", "in upper case, with a port and a dot", "", ONE, host="Host: {HOST}.:80\r\n")
get("Host", "in HTTP/1.0 none", "", host="", statuses=(400, 404, 421))

# --- targets (section 3.2)
for name, line in {
    "absolute, another host than Host": "GET http://other.test/c/{id} HTTP/1.1", "absolute, with a user": "GET http://other.test@{host}@other.test/c/{id} HTTP/1.1",
    "of another scheme": "GET ftp://{host}/c/{id} HTTP/1.1", "a word": "GET c/{id} HTTP/1.1", "a star": "GET * HTTP/1.1", "a fragment": "GET /c/{id}#x HTTP/1.1",
    "an authority": "GET {host}:80 HTTP/1.1", "NUL": "GET /c/{id}\x00 HTTP/1.1", "a space": "GET /c/{id} x HTTP/1.1", "a tab": "GET /c/{id}\tHTTP/1.1", "two spaces": "GET  /c/{id}  HTTP/1.1", "nothing": "GET  HTTP/1.1",
    "bytes under 32": "GET /c/{id}\x01 HTTP/1.1", "DEL": "GET /c/{id}\x7f HTTP/1.1", "a request in it": "GET /c/{id} HTTP/1.1 GET /smuggled HTTP/1.1",
    "no scheme but slashes and another host": "GET http:/c/{id} HTTP/1.1", "absolute without a host": "GET http:///c/{id} HTTP/1.1", "a vertical tab for a space": "GET\x0b/c/{id}\x0bHTTP/1.1",
}.items():  # fmt: skip
    case("targets", name, f"{line}\r\n{HOST}\r\n", statuses=(400, 404, 421))
case("targets", "endless", f"GET /{'a' * 200_000} HTTP/1.1\r\n{HOST}\r\n", statuses=(414, 431, 400))
case("targets", "absolute, the host wins over Host", "GET http://{host}/c/{id} HTTP/1.1\r\nHost: other.test\r\n\r\n", ONE)
case("targets", "absolute, https over plain HTTP", f"GET https://{{host}}/c/{{id}} HTTP/1.1\r\n{HOST}\r\n", ONE, or_refuse=True, statuses=(400, 421))
case("targets", "a star with OPTIONS", f"OPTIONS * HTTP/1.1\r\n{HOST}\r\n", [Seen("OPTIONS", "*")], or_refuse=True)
case("targets", "two slashes", f"GET //c/{{id}} HTTP/1.1\r\n{HOST}\r\n", [Seen("GET", "//c/{id}")])
case("targets", "dots are passed on as they are", f"GET /x/../c/{{id}} HTTP/1.1\r\n{HOST}\r\n", [Seen("GET", "/x/../c/{id}")])
case("targets", "an encoded line end stays encoded", f"GET /c/{{id}}%0d%0aX:%20y HTTP/1.1\r\n{HOST}\r\n", [Seen("GET", "/c/{id}%0d%0aX:%20y")])

# --- methods and versions
for name, line in {
    "none": "/c/{id} HTTP/1.1", "brackets": "G[]T /c/{id} HTTP/1.1", "quotes": 'G"ET /c/{id} HTTP/1.1', "a colon": "GET: /c/{id} HTTP/1.1", "NUL": "G\x00ET /c/{id} HTTP/1.1", "a CR before it": "\rGET /c/{id} HTTP/1.1",
    "CONNECT": "CONNECT {host}:80 HTTP/1.1", "CONNECT with a path": "CONNECT /c/{id} HTTP/1.1", "PRI": "PRI * HTTP/1.1",
}.items():  # fmt: skip
    case("methods", name, f"{line}\r\n{HOST}\r\n", statuses=(400, 404, 405, 421, 501))
case("methods", "one that nobody knows", f"FROB /c/{{id}} HTTP/1.1\r\n{HOST}\r\n", [Seen("FROB")], or_refuse=True, statuses=(400, 405, 501))
case("methods", "in lower case is another", f"get /c/{{id}} HTTP/1.1\r\n{HOST}\r\n", [Seen("get")], or_refuse=True, statuses=(400, 405, 501))
case("methods", "TRACE with a body", f"TRACE /c/{{id}} HTTP/1.1\r\n{HOST}Content-Length: 5\r\n\r\nhello", [Seen("TRACE", body=b"hello")], or_refuse=True, statuses=(400, 405, 501))
for name, line in {
    "HTTP/0.9": "GET /c/{id}", "HTTP/2.0": "GET /c/{id} HTTP/2.0", "HTTP/1.2 as if newer": "GET /c/{id} HTTP/1.2", "HTTP/1.10": "GET /c/{id} HTTP/1.10", "HTTP/1.": "GET /c/{id} HTTP/1.", "HTTP/1": "GET /c/{id} HTTP/1",
    "a lower-case name": "GET /c/{id} http/1.1", "another name": "GET /c/{id} HTTQ/1.1", "a space within": "GET /c/{id} HTTP/1. 1", "a space behind": "GET /c/{id} HTTP/1.1 ", "of eight bits too many": "GET /c/{id} HTTP/257.257", "CR within": "GET /c/{id} HTTP/\r\r1.1", "HTTP/01.1": "GET /c/{id} HTTP/01.1",
}.items():  # fmt: skip
    case("versions", name, f"{line}\r\n{HOST}\r\n", statuses=(400, 505))
case("versions", "HTTP/1.0 with a body of so many bytes", f"POST /c/{{id}} HTTP/1.0\r\n{HOST}Content-Length: 5\r\n\r\nhello{SMUGGLED}", [Seen("POST", body=b"hello")])
case("versions", "HTTP/1.0 that says keep-alive, and another", f"GET /c/{{id}} HTTP/1.0\r\n{HOST}Connection: keep-alive\r\n\r\nGET /c/{{id}} HTTP/1.0\r\n{HOST}\r\n", [Seen(), Seen()])
case("versions", "HTTP/1.0 ends with its answer", f"GET /c/{{id}} HTTP/1.0\r\n{HOST}\r\n{SMUGGLED}", ONE)

# --- upgrades (RFC 9110 section 7.8): what is behind one is no tunnel before a 101
UP = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
get("upgrade", "refused, and a request behind it", UP + "\r\n" + SMUGGLED[:-2], [Seen(), Seen("GET", "/smuggled")], or_refuse=True)
get("upgrade", "to h2c is not passed on", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n", ONE)
get("upgrade", "to h2c in other case", "Connection: upgrade\r\nUpgrade: H2C\r\n", ONE)
get("upgrade", "to h2c beside websocket", "Connection: upgrade\r\nUpgrade: websocket, h2c\r\n", ONE, or_refuse=True)
get("upgrade", "without Connection", "Upgrade: websocket\r\n", ONE)
post("upgrade", "with a body", UP + "Content-Length: 5\r\n", "hello", [Seen("POST", body=b"hello")], or_refuse=True)
post("upgrade", "with chunks", UP + "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n", [Seen("POST", body=b"hello")], or_refuse=True)
get("upgrade", "of another version of WebSocket", UP.replace("13", "777") + "\r\n" + SMUGGLED[:-2], [Seen(), Seen("GET", "/smuggled")], or_refuse=True)

# --- Expect (RFC 9110 section 10.1.1)
post("Expect", "100-continue, the body at once", "Expect: 100-continue\r\nContent-Length: 5\r\n", "hello", [Seen("POST", body=b"hello")])
post("Expect", "100-continue in other case", "Expect: 100-Continue\r\nContent-Length: 5\r\n", "hello", [Seen("POST", body=b"hello")])
post("Expect", "100-continue, chunked", "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n", [Seen("POST", body=b"hello")])
post("Expect", "something else", "Expect: y 100-continue\r\nContent-Length: 5\r\n", "hello", [Seen("POST", body=b"hello")], or_refuse=True, statuses=(400, 417))
post("Expect", "without a body", "Expect: 100-continue\r\n", "", ONE, method="GET", or_refuse=True, statuses=(400, 417))
post("Expect", "folded", "Expect:\r\n 100-continue\r\nContent-Length: 5\r\n", "hello")
post("Expect", "twice", "Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 5\r\n", "hello", [Seen("POST", body=b"hello")], or_refuse=True, statuses=(400, 417))

# --- Connection names what a proxy has to take away, never what it needs (RFC 9110 section 7.6.1)
get("Connection", "names Host", "Connection: Host\r\n", ONE, or_refuse=True)
post("Connection", "names Content-Length", "Connection: Content-Length\r\nContent-Length: 5\r\n", "hello", [Seen("POST", body=b"hello")], or_refuse=True)
get("Connection", "says close, and a request behind it", "Connection: close\r\n\r\n" + SMUGGLED[:-2], ONE)

# --- several requests, and what is behind a refused one
case("pipelining", "three", f"{GET}{HOST}\r\n" * 3, [Seen()] * 3)
case("pipelining", "a body between", f"{GET}{HOST}\r\nPOST /c/{{id}} HTTP/1.1\r\n{HOST}Content-Length: 5\r\n\r\nhello{GET}{HOST}\r\n", [Seen(), Seen("POST", body=b"hello"), Seen()])
case("pipelining", "behind chunks", f"POST /c/{{id}} HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n{GET}{HOST}\r\n", [Seen("POST", body=b"hello"), Seen()])
case("pipelining", "behind one that is none", f"NONSENSE\r\n\r\n{SMUGGLED}")
case("pipelining", "a good one, then one that is none", f"{GET}{HOST}\r\nNONSENSE\r\n\r\n{SMUGGLED}", ONE)
case("pipelining", "a good one, then a lone LF", f"{GET}{HOST}\r\n\n{SMUGGLED}", ONE)
case("pipelining", "bytes behind a GET", f"{GET}{HOST}\r\nX", ONE)
case("pipelining", "unknown host, its body is a request", f"POST /c/{{id}} HTTP/1.1\r\nHost: other.test\r\nContent-Length: {len(SMUGGLED) + 20}\r\n\r\n{SMUGGLED}", statuses=(404, 421), closes=False)
case("pipelining", "too long a body is not read as requests", f"POST /c/{{id}} HTTP/1.1\r\n{HOST}Content-Length: 99999999999999\r\n\r\n{SMUGGLED}", statuses=(413,))
