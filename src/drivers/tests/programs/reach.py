"""Tries to reach what its arguments name, `tcp/ADDRESS/PORT` or `udp/ADDRESS/PORT`, and prints how each went."""

import errno
import socket
import sys

PATIENCE_S = 5


def attempt(kind, address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    how = socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, how) as s:
        s.settimeout(PATIENCE_S)
        # A numeric address: nobody is asked for names.
        s.connect((address, int(port)))
        if kind == "udp":
            s.send(b"x")


for target in sys.argv[1:]:
    try:
        attempt(*target.split("/"))
        print(target, "reached")
    except OSError as error:
        print(target, errno.errorcode.get(error.errno, repr(error)))
