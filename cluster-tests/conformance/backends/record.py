"""Behind a server under test: writes down what it passed on, one JSON object a line, and answers with the same.

It listens on a Unix socket, takes one connection's requests one after the other, and is as strict as RFC 9112 allows, so that
what it writes down is what the server in front of it understood.
"""

import json
import os
import re
import socket
import sys
import threading
import time

NUMBER = re.compile(rb"[0-9]+\Z")
HEX = re.compile(rb"[0-9a-fA-F]+\Z")


class Broken(Exception):
    pass


class Reader:
    def __init__(self, connection):
        self.connection = connection
        self.kept = b""

    def more(self):
        piece = self.connection.recv(65536)
        if not piece:
            raise Broken("ended")
        self.kept += piece

    def until(self, end):
        while end not in self.kept:
            self.more()
        text, self.kept = self.kept.split(end, 1)
        return text

    def exactly(self, count):
        while len(self.kept) < count:
            self.more()
        text, self.kept = self.kept[:count], self.kept[count:]
        return text

    def chunks(self):
        body = b""
        while True:
            size = self.until(b"\r\n").split(b";")[0]
            if not HEX.match(size):
                raise Broken("chunk")
            count = int(size, 16)
            if count == 0:
                while self.until(b"\r\n"):
                    pass
                return body
            body += self.exactly(count)
            if self.exactly(2) != b"\r\n":
                raise Broken("chunk")


def serve(connection, note):
    reader = Reader(connection)
    while True:
        head = reader.until(b"\r\n\r\n")
        line, *fields = head.split(b"\r\n")
        method, target, _ = line.split(b" ", 2)
        pairs = [tuple(part.strip() for part in f.split(b":", 1)) for f in fields]
        lower = {name.lower(): value for name, value in pairs if name}
        said = {"method": method.decode("latin-1"), "target": target.decode("latin-1")}
        said["host"] = lower.get(b"host", b"").decode("latin-1")
        try:
            if b"transfer-encoding" in lower:
                body = reader.chunks()
            elif b"content-length" in lower:
                if not NUMBER.match(lower[b"content-length"]):
                    raise Broken("length")
                body = reader.exactly(int(lower[b"content-length"]))
            else:
                body = b""
        except Broken as broken:
            note({**said, "broken": str(broken)})
            raise
        said["body"] = body.decode("latin-1")
        text = note(said)
        answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(text)
        connection.sendall(answer + (b"" if method == b"HEAD" else text))
        if b"close" in lower.get(b"connection", b"").lower():
            return


def main():
    path, record = sys.argv[1], os.environ["RECORD"]
    lock = threading.Lock()

    def note(said):
        text = json.dumps(said).encode()
        with lock, open(record, "ab") as file:
            file.write(text + b"\n")
        return text

    def one(connection):
        try:
            serve(connection, note)
        except (Broken, OSError, ValueError):
            pass
        finally:
            connection.close()

    def end_with_parent(parent=os.getppid()):
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
    listener = socket.socket(socket.AF_UNIX)
    if os.path.exists(path):
        os.unlink(path)
    listener.bind(path)
    listener.listen(64)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=one, args=(connection,), daemon=True).start()


main()
