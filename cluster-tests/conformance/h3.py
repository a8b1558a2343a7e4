"""HTTP/3 by aioquic: requests, content, trailers, many streams at once, and requests that are none (RFC 9114)."""

import asyncio
import json
import ssl


PATIENCE_SECONDS = 15
# An edge that does not speak it at all says nothing.
LOOK_SECONDS = 3
AT_ONCE = 100
MESSAGE_ERROR = 0x10E
LARGE = bytes(range(256)) * 2000


def run(lab, results):
    if missing := lab.missing_module("aioquic"):
        results.skip("aioquic", missing)
        return
    host = lab.app()
    for what, node in (("", lab.cluster.near), (" through another node", lab.cluster.far)):
        address = node.address(True)
        if not asyncio.run(speaks(address, host, lab.cluster.ca)):
            results.skip(f"HTTP/3{what}", f"nothing speaks it at UDP port {address[1]}")
            continue
        for name, good, note in asyncio.run(everything(address, host, lab.cluster.ca)):
            results.check(f"{name}{what}", good, note)


def client(address, host, ca):
    """A connection whose protocol is `Client`."""
    from aioquic.asyncio.client import connect
    from aioquic.h3.connection import H3_ALPN, H3Connection
    from aioquic.asyncio.protocol import QuicConnectionProtocol
    from aioquic.h3.events import DataReceived, HeadersReceived
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.events import ConnectionTerminated, StopSendingReceived, StreamReset

    class Client(QuicConnectionProtocol):
        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **named)
            self.h3 = H3Connection(self._quic)
            self.streams = {}
            self.ended = None

        def quic_event_received(self, event):
            if isinstance(event, ConnectionTerminated):
                self.ended = event.error_code
                for stream in self.streams.values():
                    stream.over(f"the connection ended by {event.error_code:#x}")
            elif isinstance(event, StreamReset | StopSendingReceived) and event.stream_id in self.streams:
                stream = self.streams[event.stream_id]
                stream.reset = event.error_code
                if isinstance(event, StreamReset):
                    stream.over(None)
            for said in self.h3.handle_event(event):
                stream = self.streams.get(said.stream_id)
                if stream is None:
                    continue
                if isinstance(said, HeadersReceived):
                    stream.heads.append(dict(said.headers))
                elif isinstance(said, DataReceived):
                    stream.body += said.data
                if said.stream_ended:
                    stream.over(None)

        def begin(self, fields, body=None, trailers=None):
            number = self._quic.get_next_available_stream_id()
            stream = self.streams[number] = Stream(asyncio.get_running_loop().create_future())
            if self.ended is not None:
                stream.over("the connection had ended")
                return stream
            self.h3.send_headers(number, fields, end_stream=body is None and trailers is None)
            if body is not None:
                self.h3.send_data(number, body, end_stream=trailers is None)
            if trailers is not None:
                self.h3.send_headers(number, trailers, end_stream=True)
            self.transmit()
            return stream

        async def ask(self, fields, body=None, trailers=None):
            stream = self.begin(fields, body, trailers)
            await asyncio.wait_for(stream.done, PATIENCE_SECONDS)
            return stream

    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=host, verify_mode=ssl.CERT_REQUIRED)
    configuration.load_verify_locations(cafile=str(ca))
    return connect(*address, configuration=configuration, create_protocol=Client)


class Stream:
    def __init__(self, done):
        self.done, self.heads, self.body, self.reset, self.error = done, [], b"", None, None

    def over(self, error):
        self.error = error
        if not self.done.done():
            self.done.set_result(None)

    @property
    def status(self):
        final = [head for head in self.heads if not head.get(b":status", b"1").startswith(b"1")]
        return int(final[0][b":status"]) if final else None

    @property
    def trailers(self):
        return self.heads[-1] if len(self.heads) > 1 and b":status" not in self.heads[-1] else {}

    def __repr__(self):
        return f"{self.status} with {len(self.body)} bytes, reset {self.reset}{f', {self.error}' if self.error else ''}"


async def speaks(address, host, ca):
    # What becomes of a handshake that nobody answered is nobody's business.
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            async with client(address, host, ca):
                return True
    except (OSError, TimeoutError):
        return False


def head(host, method="GET", path="/", *fields):
    named = [(b":method", method), (b":scheme", "https"), (b":authority", host), (b":path", path)]
    return [(n, v.encode()) for n, v in named] + [(n.encode(), v.encode()) for n, v in fields]


async def everything(address, host, ca):
    """What, whether it is right, and what came."""
    out = []

    def note(name, good, came):
        out.append((name, good, "" if good else repr(came)))

    async with client(address, host, ca) as c:
        a = await c.ask(head(host, path="/a?b=c"))
        note("GET", a.status == 200 and json.loads(a.body)["path"] == "/a?b=c", a)
        # Of an answer without Content-Length: aioquic takes one for content that is still to come.
        a = await c.ask(head(host, "HEAD", "/stream?n=1"))
        note("HEAD", a.status == 200 and not a.body, a)
        a = await c.ask(head(host, "POST", "/echo"), b"hello")
        note("POST", a.status == 200 and a.body == b"hello", a)
        a = await c.ask(head(host, "POST", "/echo"), LARGE)
        note("POST of 512,000 bytes", a.status == 200 and a.body == LARGE, a)
        a = await c.ask(head(host, "POST", "/echo", ("content-length", str(len(LARGE)))), LARGE)
        note("POST of so many bytes", a.status == 200 and a.body == LARGE, a)
        a = await c.ask(head(host, "POST", "/echo"), b"hello", [(b"x-sum", b"1")])
        note("POST with trailers", a.status == 200 and a.body == b"hello", a)
        a = await c.ask(head(host, "GET", "/trailers", ("te", "trailers")))
        note("an answer's trailers", a.status == 200 and a.body == b"onetwo" and a.trailers.get(b"x-sum") == b"6", (a, a.heads))
        a = await c.ask(head(host, "GET", "/bytes?n=1000", ("range", "bytes=256-511")))
        note("a range", a.status == 206 and a.body == bytes(range(256)), a)
        a = await c.ask(head(host, "GET", "/bytes?n=5000000"))
        note("5,000,000 bytes", a.status == 200 and len(a.body) == 5_000_000, a)
        a = await c.ask(head("unknown.test"))
        note("a host that nobody has", a.status in (404, 421), a)
        all_ = [c.begin(head(host, path=f"/bytes?n={n}")) for n in range(AT_ONCE)]
        await asyncio.wait_for(asyncio.gather(*(s.done for s in all_)), PATIENCE_SECONDS)
        wrong = [(n, s) for n, s in enumerate(all_) if s.status != 200 or len(s.body) != n]
        note(f"{AT_ONCE} at once", not wrong, wrong[:3])
        cancelled = c.begin(head(host, path="/slow?ms=2000"))
        number = next(n for n, s in c.streams.items() if s is cancelled)
        c._quic.reset_stream(number, 0x10C)
        c._quic.stop_stream(number, 0x10C)
        c.transmit()
        a = await c.ask(head(host, path="/after"))
        note("a cancelled one, and another behind it", a.status == 200, a)
    for name, fields, body in malformed(host):
        async with client(address, host, ca) as c:
            try:
                a = await c.ask(fields, body)
                # Section 4.1.2: an error of the stream, or of the connection, or an answer of 400.
                note(f"refused: {name}", a.reset is not None or c.ended is not None or (a.status or 0) >= 400, a)
            except TimeoutError:
                note(f"refused: {name}", False, "nothing came")
    return out


def malformed(host):
    plain = head(host)
    yield "an upper-case name", [*plain, (b"X-Y", b"z")], None
    yield "connection", [*plain, (b"connection", b"close")], None
    yield "transfer-encoding", [*plain, (b"transfer-encoding", b"chunked")], b"0\r\n\r\n"
    yield "te: chunked", [*plain, (b"te", b"chunked")], None
    yield "no :method", plain[1:], None
    yield "no :path", plain[:3], None
    yield "no :scheme", [plain[0], *plain[2:]], None
    yield ":path twice", [*plain, (b":path", b"/")], None
    yield "a pseudo-field behind a field", [*plain[:3], (b"x", b"y"), plain[3]], None
    yield "a pseudo-field that nobody knows", [*plain, (b":x", b"y")], None
    yield "a value with CR LF", [*plain, (b"x", b"a\r\nb: c")], None
    yield "a path with CR LF", [*plain[:3], (b":path", b"/ HTTP/1.1\r\nX: y")], None
    yield "a path with a space", [*plain[:3], (b":path", b"/ x")], None
    yield "Host that is another", [*plain, (b"host", b"other.test")], None
    yield "content-length that is too long", [*head(host, "POST", "/echo"), (b"content-length", b"6")], b"hello"
    yield "content-length that is too short", [*head(host, "POST", "/echo"), (b"content-length", b"4")], b"hello"
