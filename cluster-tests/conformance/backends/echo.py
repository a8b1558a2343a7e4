"""A WebSocket server that says what it hears, with compression where the client asks for it."""

import asyncio
import logging
import os
import signal

import websockets
from websockets.asyncio.server import serve

# Autobahn's largest message has 16 MiB.
MESSAGE_BYTES = 32 * 1024 * 1024


async def echo(connection):
    try:
        async for message in connection:
            await connection.send(message)
    except websockets.ConnectionClosed:
        pass


async def main():
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    stop = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set_result, None)
    # No pings of its own, so that what it says depends on the client alone.
    options = {"ping_interval": None, "max_size": MESSAGE_BYTES, "close_timeout": 2}
    async with serve(echo, "127.0.0.1", int(os.environ["PORT"]), **options):
        await stop


asyncio.run(main())
