"""Lets a client of WebSocket over HTTP/1.1 speak it over HTTP/2 (RFC 8441): each connection becomes one extended CONNECT.

Runs as a program of its own: `bridge.py HOST PORT [CA]` prints the port that it listens on. With a CA it speaks TLS to PORT.
"""

import asyncio
import base64
import contextlib
import hashlib
import ssl
import sys

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.settings import SettingCodes

MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
WINDOW = 1 << 24
LINGER_SECONDS = 2
# Of the handshake, what the stream's own fields say already (section 5).
NOT_PASSED = {"host", "connection", "upgrade", "sec-websocket-key"}


class Bridge:
    def __init__(self, host, port, tls):
        self.host, self.port, self.tls = host, port, tls

    async def serve(self, reader, writer):
        try:
            await One(self, reader, writer).run()
        except OSError as error:
            print(f"the edge: {error}", file=sys.stderr)
        finally:
            writer.close()


class One:
    """One connection of each kind."""

    def __init__(self, bridge, reader, writer):
        self.bridge, self.reader, self.writer = bridge, reader, writer
        config = H2Configuration(client_side=True, header_encoding="utf-8")
        self.h2 = H2Connection(config)
        self.allowed = asyncio.Event()
        self.window = asyncio.Event()
        self.stream = None
        self.key = ""
        # The edge has ended the stream; what the client still says is read and thrown away.
        self.over = False
        self.gone = asyncio.Event()

    async def run(self):
        b = self.bridge
        name = b.host if b.tls else None
        self.far, self.out = await asyncio.open_connection("127.0.0.1", b.port, ssl=b.tls, server_hostname=name)
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(WINDOW)
        await self.flush()
        listening = asyncio.create_task(self.listen())
        talking = asyncio.create_task(self.talk())
        try:
            await asyncio.wait({listening, talking}, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for task in (listening, talking):
                task.cancel()
            await asyncio.gather(listening, talking, return_exceptions=True)
            self.out.close()

    async def open(self, head):
        path = head[0].split(" ")[1]
        fields = [tuple(part.strip() for part in line.split(":", 1)) for line in head[1:] if line]
        fields = [(name.lower(), value) for name, value in fields]
        self.key = dict(fields)["sec-websocket-key"]
        self.stream = self.h2.get_next_available_stream_id()
        named = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https" if self.bridge.tls else "http")]
        named += [(":path", path), (":authority", self.bridge.host)]
        self.h2.send_headers(self.stream, named + [f for f in fields if f[0] not in NOT_PASSED])
        self.h2.increment_flow_control_window(WINDOW, self.stream)
        await self.flush()

    async def talk(self):
        """What the client says: the handshake as fields, the rest as content."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        await asyncio.wait_for(self.allowed.wait(), 5)
        await self.open(head)
        while piece := await self.reader.read(65536):
            while piece and not self.over:
                room = min(self.h2.local_flow_control_window(self.stream), self.h2.max_outbound_frame_size, len(piece))
                if room == 0:
                    self.window.clear()
                    await self.window.wait()
                    continue
                self.h2.send_data(self.stream, piece[:room])
                piece = piece[room:]
                await self.flush()
        self.gone.set()
        if not self.over:
            self.h2.end_stream(self.stream)
            await self.flush()

    async def listen(self):
        """What the edge says; ends with the stream, by an error that ends the rest as well."""
        while data := await self.far.read(65536):
            for event in self.h2.receive_data(data):
                if isinstance(event, RemoteSettingsChanged):
                    changed = event.changed_settings.get(SettingCodes.ENABLE_CONNECT_PROTOCOL)
                    if changed and changed.new_value == 1:
                        self.allowed.set()
                elif isinstance(event, WindowUpdated):
                    self.window.set()
                elif isinstance(event, ResponseReceived):
                    self.answer(dict(event.headers))
                elif isinstance(event, DataReceived):
                    self.writer.write(event.data)
                    await self.writer.drain()
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, StreamEnded):
                    await self.linger()
                    raise EOFError
                elif isinstance(event, StreamReset | ConnectionTerminated):
                    self.writer.transport.abort()
                    raise EOFError
            self.window.set()
            await self.flush()
        raise EOFError

    async def linger(self):
        """A socket that is closed while something unread is in it is reset, and what was said last is lost with it."""
        self.over = True
        self.window.set()
        await self.writer.drain()
        self.writer.write_eof()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.gone.wait(), LINGER_SECONDS)

    def answer(self, fields):
        status = fields.pop(":status")
        lines = [f"{name}: {value}" for name, value in fields.items()]
        if status == "200":
            accept = base64.b64encode(hashlib.sha1((self.key + MAGIC).encode()).digest()).decode()
            lines += ["Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {accept}"]
            status = "101"
        self.writer.write(f"HTTP/1.1 {status} x\r\n{chr(10).join(f'{line}{chr(13)}' for line in lines)}\n\r\n".encode("latin-1"))

    async def flush(self):
        self.out.write(self.h2.data_to_send())
        await self.out.drain()


async def main():
    host, port = sys.argv[1], int(sys.argv[2])
    tls = None
    if len(sys.argv) > 3:
        tls = ssl.create_default_context(cafile=sys.argv[3])
        tls.set_alpn_protocols(["h2"])
    server = await asyncio.start_server(Bridge(host, port, tls).serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
