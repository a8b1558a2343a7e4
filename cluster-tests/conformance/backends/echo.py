"""A WebSocket server that says what it hears, with compression where the client asks for it.

It takes frames one after the other, however they arrive: what it says of the first does not depend on whether the second was there.
"""

import os
import socket
import threading

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Message,
    Ping,
    RejectConnection,
    Request,
)
from wsproto.extensions import PerMessageDeflate
from wsproto.utilities import RemoteProtocolError

READ_BYTES = 65536
# The client has the last word of a connection, for so long.
LINGER_SECONDS = 2


def serve(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    ws = WSConnection(ConnectionType.SERVER)
    heard = []
    while data := connection.recv(READ_BYTES):
        try:
            ws.receive_data(data)
            for event in ws.events():
                connection.sendall(answer(ws, event, heard))
                if isinstance(event, CloseConnection | RejectConnection):
                    return finish(connection)
        except RemoteProtocolError as error:
            hint = error.event_hint
            if isinstance(hint, RejectConnection | CloseConnection):
                connection.sendall(ws.send(hint))
            return finish(connection)


def answer(ws, event, heard):
    if isinstance(event, Request):
        return ws.send(AcceptConnection(extensions=[PerMessageDeflate()]))
    if isinstance(event, Ping | CloseConnection):
        return ws.send(event.response())
    if isinstance(event, Message):
        heard.append(event.data)
        if not event.message_finished:
            return b""
        whole = (b"" if isinstance(event, BytesMessage) else "").join(heard)
        heard.clear()
        return ws.send(type(event)(data=whole))
    return b""


def finish(connection):
    connection.shutdown(socket.SHUT_WR)
    connection.settimeout(LINGER_SECONDS)
    while connection.recv(READ_BYTES):
        pass


def one(connection):
    with connection:
        try:
            serve(connection)
        except OSError:
            pass


def main():
    listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=one, args=(connection,), daemon=True).start()


main()
