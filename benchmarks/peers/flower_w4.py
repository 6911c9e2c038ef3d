"""W4 in Flower's deployment engine: a SuperLink, two SuperNodes and `flwr run`, on loopback.

As its documentation shows: TLS between everybody and the SuperLink, SuperNodes that sign their
requests with keys of their own, and its default isolation, `subprocess`, which starts a process for
every message. Models are not encrypted end to end: Flower has nothing for that. Installing an app's
dependencies at every start is off, because the app has none and there is no network.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import flwr
import numpy as np

from benchmarks import measure
from benchmarks.workloads import W1

APP = Path(__file__).with_name("flower_app")
SCRIPTS = Path(sys.executable).parent
SETTINGS = {
    "api": "flower-superlink, flower-supernode, flwr run; ServerApp with FedAvg, ClientApp",
    "isolation": "subprocess (default): a ClientApp process for every message",
    "tls": True,
    "supernode authentication": True,
    "end-to-end encryption": False,
    "evaluation": "off",
    "telemetry": "off",
}
PATIENCE = 600.0


def run(size: measure.Size) -> measure.Outcome:
    """Run the deployment from nothing to the end of the last round."""
    with tempfile.TemporaryDirectory(prefix="flower-") as name, ExitStack() as running:
        folder = Path(name)
        os.environ |= {
            "FLWR_HOME": str(folder / "home"),
            "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
        }
        port = free_port()
        certificate = str(folder / "server.pem")
        hub = running.enter_context(superlink(folder, certificate, port))
        wait_for(port)
        address = f"127.0.0.1:{port}"
        write_connection(folder / "home", address, certificate)
        sites = [
            running.enter_context(supernode(folder, certificate, address, site))
            for site in range(size.sites)
        ]
        config = f'rounds={size.rounds} sites={size.sites} folder="{folder}"'
        began = time.monotonic()
        command("flwr", "run", str(APP), "bench", "--run-config", config)
        marks = wait_for_marks(folder, began)
        with np.load(folder / "final.npz") as final:
            return measure.Outcome(
                flwr.__version__,
                marks,
                dict(final),
                SETTINGS,
                programs={"hub": [hub], "site": sites},
            )


def superlink(folder: Path, certificate: str, port: int) -> AbstractContextManager[int]:
    """Run the SuperLink with TLS; yield its process id."""
    key = write_certificate(certificate)
    tls = ["--ssl-ca-certfile", certificate, "--ssl-certfile", certificate, "--ssl-keyfile", key]
    options = ["--enable-supernode-auth", "--disable-runtime-dependency-installation"]
    listen = ["--host", "127.0.0.1", "--port", str(port)]
    return program("flower-superlink", *tls, *options, *listen, folder=folder)


def supernode(
    folder: Path, certificate: str, address: str, number: int
) -> AbstractContextManager[int]:
    """Register and run a SuperNode that signs its requests; yield its process id."""
    key = write_node_key(folder / f"node-{number}")
    command("flwr", "supernode", "register", f"{key}.pub", "bench")
    options = ["--root-certificates", certificate, "--superlink", address]
    options += ["--auth-supernode-private-key", str(key), "--port", str(free_port())]
    return program("flower-supernode", *options, folder=folder)


def write_connection(home: Path, address: str, certificate: str) -> None:
    """Tell `flwr` where the SuperLink is."""
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "bench"\n[superlink.bench]\naddress = "{address}"\n'
        f'root-certificates = "{certificate}"\n'
    )


def wait_for_marks(folder: Path, began: float) -> list[float]:
    """Return the moments that the ServerApp left, once it has."""
    until = time.monotonic() + PATIENCE
    while not (folder / "marks.json").exists():
        if time.monotonic() > until:
            raise SystemExit("Flower's ServerApp did not finish")
        time.sleep(0.1)
    return [began, *json.loads((folder / "marks.json").read_text("utf-8"))[1:]]


@contextmanager
def program(name: str, *options: str, folder: Path) -> Iterator[int]:
    """Run one of Flower's long-lived programs, its output in a file; end it by its own id."""
    with (folder / f"{name}.log").open("ab") as log:
        running = subprocess.Popen([str(SCRIPTS / name), *options], stdout=log, stderr=log)
    try:
        yield running.pid
    finally:
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def write_certificate(path: str) -> str:
    """Write a certificate for 127.0.0.1 that is its own authority; return the path of its key."""
    key = f"{path}.key"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-nodes"]
    names = ["-subj", "/CN=bench", "-addext", "subjectAltName=IP:127.0.0.1"]
    command("openssl", "req", "-x509", *curve, *names, "-out", path, "-keyout", key)
    return key


def write_node_key(path: Path) -> Path:
    """Write a SuperNode's key, and beside it the public one."""
    command("ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", str(path))
    return path


def command(*words: str) -> None:
    """Run a command to its end.

    Raises:
        SystemExit: it failed.
    """
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stdout}{done.stderr}")


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int) -> None:
    """Wait until somebody listens on a port."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit(f"nobody listens on port {port}")


if __name__ == "__main__":
    measure.main(
        "W4",
        "Flower",
        run,
        lambda size, final: W1.verify(size.rounds, final),
        sites=2,
        rounds=10,
        own_network=True,
    )
