"""A cluster of two nodes on loopback, with TLS: the first runs every instance, the second none.

What enters at the second edge goes through the mesh to the first. Everything is in one folder that goes away.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TLD = "conf.test"
# What is deployed.
BACKENDS = Path(__file__).parent / "backends"
START_SECONDS = 60
LOOK_SECONDS = 0.05
# One connection's requests then follow another's on the same connections to instances: what one leaves behind shows.
EDGE_THREADS = "1"


class Failed(Exception):
    """The cluster did not do what a test needs before anything can be tested."""


def free_ports(count):
    """TCP ports on loopback that nobody has at this moment."""
    held = []
    for _ in range(count):
        held.append(socket.create_server(("127.0.0.1", 0)))
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports


class Node:
    """A daemon of ours, and where it listens."""

    def __init__(self, name, folder):
        self.name = name
        self.data = folder / name
        self.quic, self.api, self.edge, self.tls = free_ports(4)
        self.log = folder / f"{name}.log"
        self.process = None

    def flags(self, certificates):
        return [
            "--foreground", "--name", self.name, "--data-dir", str(self.data),
            "--listen", f"127.0.0.1:{self.quic}", "--api-addr", f"127.0.0.1:{self.api}",
            "--edge-addr", f"127.0.0.1:{self.edge}", "--edge-tls-addr", f"127.0.0.1:{self.tls}",
            "--edge-certificates", str(certificates), "--edge-threads", EDGE_THREADS,
            # What runs behind the edge are programs of this machine, wherever they are installed.
            "--isolation", "off",
        ]  # fmt: skip

    def address(self, tls):
        return ("127.0.0.1", self.tls if tls else self.edge)


class Cluster:
    """Begins with `with`, ends with it."""

    def __init__(self, programs):
        self.nodectl = programs / "nodectl"
        self.nebula = programs / "nebula"
        self.folder = Path(tempfile.mkdtemp(prefix="nebula-conformance-"))
        self.certificates = self.folder / "certificates"
        self.ca = self.folder / "ca.pem"
        self.near = Node("near", self.folder)
        self.far = Node("far", self.folder)
        self.deployed = set()

    def __enter__(self):
        try:
            self.make_certificate()
            self.start(self.near, ["init"], [])
            made = self.command(self.nodectl, "token", "create", "--json", "--data-dir", self.near.data)
            token = json.loads(made)["token"]
            address = f"127.0.0.1:{self.near.api}"
            self.start(self.far, ["join", address, "--token", token], ["--capacity", "0"])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for node in (self.far, self.near):
            if node.process is None:
                continue
            # SIGINT stops the instances as well.
            node.process.send_signal(signal.SIGINT)
            try:
                node.process.wait(20)
            except subprocess.TimeoutExpired:
                node.process.kill()
        if os.environ.get("NEBULA_CONFORMANCE_KEEP"):
            print(f"kept: {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def make_certificate(self):
        """A CA of this run, and a certificate by it for every name under the domain."""
        self.certificates.mkdir()
        ca_key = self.folder / "ca.key"
        openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30",
            "-subj", "/CN=conformance", "-keyout", ca_key, "-out", self.ca,
        )  # fmt: skip
        key, request = self.certificates / "default.key", self.folder / "request.pem"
        openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-subj", f"/CN=*.{TLD}", "-keyout", key, "-out", request,
        )  # fmt: skip
        names = self.folder / "names"
        names.write_text(
            f"subjectAltName=DNS:*.{TLD},DNS:localhost\nextendedKeyUsage=serverAuth\n"
            "keyUsage=digitalSignature\nbasicConstraints=CA:FALSE\n"
        )
        openssl(
            "x509", "-req", "-days", "30", "-in", request, "-CA", self.ca, "-CAkey", ca_key, "-CAcreateserial",
            "-extfile", names, "-out", self.certificates / "default.crt",
        )  # fmt: skip
        key.chmod(0o600)

    def start(self, node, command, flags):
        with open(node.log, "ab") as log:
            node.process = subprocess.Popen(
                [self.nodectl, *command, *node.flags(self.certificates), *flags],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        for port in (node.api, node.edge, node.tls):
            self.wait(lambda p=port: is_open(p), f"{node.name} does not listen", node)
        self.wait(lambda: self.members(node) is not None, f"{node.name} is not ready", node)

    def members(self, node):
        asked = subprocess.run(
            [self.nodectl, "members", "--json", "--data-dir", str(node.data)], capture_output=True, text=True
        )
        return asked.stdout if asked.returncode == 0 else None

    def wait(self, condition, what, node):
        until = time.monotonic() + START_SECONDS
        while not condition():
            if node.process.poll() is not None or time.monotonic() > until:
                raise Failed(f"{what}: {node.log.read_text(errors='replace')[-2000:]}")
            time.sleep(LOOK_SECONDS)

    def command(self, *arguments):
        done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True, timeout=180)
        if done.returncode != 0:
            raise Failed(f"{' '.join(str(a) for a in arguments)}: {done.stderr or done.stdout}")
        return done.stdout

    def deploy(self, name, path, command=None, env=(), policy="", flags=()):
        """Deploys a folder once, and waits until both edges answer for it; its name."""
        if name in self.deployed:
            return f"{name}.{TLD}"
        words = [self.nebula, "deploy", "create", name, "--path", path, "--tld", TLD, *flags]
        words += ["--cluster", self.near.data / "cluster.json"]
        if command is not None:
            words += ["--command", command]
        for key, value in dict(env).items():
            words += ["--env", f"{key}={value}"]
        # Both on purpose: plain HTTP is not to be sent to https, which has a certificate for every name.
        file = self.folder / f"{name}.toml"
        file.write_text(policy if "https" in policy else f'https = "both"\n{policy}')
        self.command(*words, "--http", file)
        self.deployed.add(name)
        host = f"{name}.{TLD}"
        for node in (self.near, self.far):
            self.wait(lambda n=node: answers(n.edge, host), f"{name} does not answer", node)
        return host


    def serve(self, name, path, command, env=()):
        """Deploys a program with a folder `$WORK` to write to; its host, where it listens itself, and the folder."""
        work = self.folder / f"{name}-work"
        work.mkdir(exist_ok=True)
        env = {"WORK": work, "PYTHON": sys.executable, **dict(env)}
        host = self.deploy(name, path, f'echo "$PORT" > "$WORK/port"; {command}', env)
        return host, ("127.0.0.1", int((work / "port").read_text())), work


def openssl(*arguments):
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"openssl: {done.stderr}")


def is_open(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


def answers(port, host):
    """Whether somebody other than the edge itself has the say: anything but 404 and 503."""
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as s:
            s.settimeout(5)
            s.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            line = s.recv(64)
            return line.startswith(b"HTTP/1.1 ") and line[9:12] not in (b"404", b"502", b"503", b"421")
    except OSError:
        return False
