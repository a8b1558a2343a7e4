"""Frames of HTTP/2 as they are told to be (RFC 9113), right or wrong. HPACK's reading is PyPI's `hpack`."""

import struct
import time

import hpack
from http1 import PATIENCE_SECONDS, connect

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RESET, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS, ACK = 1, 4, 1
ENABLE_CONNECT_PROTOCOL = 8


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def number(value, bits):
    """An integer of HPACK (RFC 7541 section 5.1)."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([value])
    out, value = [most], value - most
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes([*out, value])


def block(fields):
    """Field lines as literals that no table keeps, byte for byte (RFC 7541 section 6.2.2)."""
    out = b""
    for name, value in fields:
        name, value = (t.encode("latin-1") if isinstance(t, str) else t for t in (name, value))
        out += b"\0" + number(len(name), 7) + name + number(len(value), 7) + value
    return out


class Said:
    """What the edge said on one stream, and of the connection."""

    def __init__(self):
        self.status = None
        self.fields = []
        self.body = b""
        self.whole = False
        self.reset = None
        self.goaway = None
        self.settings = {}

    def __repr__(self):
        ended = "" if self.reset is None else f", reset by {self.reset}"
        return f"{self.status} with {len(self.body)} bytes{ended}{'' if self.goaway is None else f', GOAWAY {self.goaway}'}"

    @property
    def refused(self):
        """By an error of stream or connection, or by an answer."""
        return bool(self.reset or self.goaway or (self.status or 0) >= 400)


def say(address, frames, stream=1, tls=None, name=None, seconds=PATIENCE_SECONDS):
    """Greets, sends `frames`, and listens until the stream or the connection has ended."""
    said, decoder, received = Said(), hpack.Decoder(), b""
    with connect(address, tls, name) as s:
        s.settimeout(0.25)
        try:
            s.sendall(PREFACE + frame(SETTINGS, 0, 0) + frames)
        except OSError:
            pass
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            while len(received) >= 9 and len(received) >= 9 + int.from_bytes(received[:3], "big"):
                length = int.from_bytes(received[:3], "big")
                kind, flags = received[3], received[4]
                of = int.from_bytes(received[5:9], "big") & 0x7FFFFFFF
                payload, received = received[9 : 9 + length], received[9 + length :]
                take(said, decoder, kind, flags, of == stream, payload)
            if said.whole or said.reset is not None or said.goaway:
                return said
            try:
                piece = s.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                return said
            if not piece:
                return said
            received += piece
    return said


def take(said, decoder, kind, flags, ours, payload):
    if kind == HEADERS:
        fields = decoder.decode(payload)
        status = next((v for n, v in fields if n == ":status"), None)
        if ours and status and not status.startswith("1"):
            said.status, said.fields = int(status), fields
    elif kind == DATA and ours:
        said.body += payload
    elif kind == RESET and ours:
        said.reset = int.from_bytes(payload, "big")
    elif kind == GOAWAY:
        # One that says that all is well is a farewell.
        said.goaway = int.from_bytes(payload[4:8], "big") or said.goaway
    elif kind == SETTINGS and not flags & ACK:
        for at in range(0, len(payload), 6):
            said.settings[int.from_bytes(payload[at : at + 2], "big")] = int.from_bytes(payload[at + 2 : at + 6], "big")
    if kind in (HEADERS, DATA) and ours and flags & END_STREAM:
        said.whole = True
