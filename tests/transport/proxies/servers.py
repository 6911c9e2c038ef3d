"""Real proxies, each started with a configuration of its own and ended by its process id."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.system import find, need
from tests.transport.authority import Authority

UNPRIVILEGED = "proxy"
"""Who squid runs as where root starts it: it refuses to be root. Debian's package makes it."""

SHARED_MEMORY = Path("/dev/shm")

SQUID = """
http_port 127.0.0.1:{port} {inspecting}
http_access {access}
hosts_file {folder}/hosts
cache deny all
pid_filename {folder}/pid
cache_log {folder}/cache.log
access_log stdio:{folder}/access.log
coredump_dir {folder}
netdb_filename none
pinger_enable off
shutdown_lifetime 0 seconds
visible_hostname proxy.test
"""
SQUID_INSPECTS = """
sslcrtd_program {certgen} -s {folder}/certificates -M 4MB
sslcrtd_children 1 startup=1
tls_outgoing_options cafile={folder}/hub.pem
acl begin at_step SslBump1
ssl_bump peek begin
ssl_bump bump all
"""
TINYPROXY = """
Listen 127.0.0.1
Port {port}
BasicAuth {user} {password}
Timeout 600
LogFile "{folder}/tinyproxy.log"
"""
NGINX = """
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        {settings}
        location / {{
            proxy_pass https://127.0.0.1:{target};
            proxy_http_version 1.1;
        }}
    }}
}}
"""


@contextmanager
def squid(
    *,
    hub: Authority | None = None,
    inspects_as: Authority | None = None,
    access: str = "allow all",
    port: int = 0,
) -> Iterator[int]:
    """Run squid, which knows the name `hub.test`; yield its port.

    Args:
        hub: the authority behind the hub's certificate, if squid is to check it.
        inspects_as: by which it makes certificates of its own for the names that are asked for.
        access: what it lets pass.
        port: to listen on; 0: any.
    """
    need("squid", *(["security_file_certgen"] if inspects_as else []))
    port = port or free_port()
    with tempfile.TemporaryDirectory(prefix="squid-") as name:
        folder = Path(name)
        (folder / "hosts").write_text("127.0.0.1 hub.test\n")
        settings, inspecting = SQUID, ""
        if hub and inspects_as:
            settings += SQUID_INSPECTS
            inspecting = (
                f"ssl-bump tls-cert={folder}/ca.pem"
                " generate-host-certificates=on dynamic_cert_mem_cache_size=4MB"
            )
            (folder / "hub.pem").write_text(hub.pem)
            (folder / "ca.pem").write_text(inspects_as.pem + inspects_as.key.read_text())
        certgen = find("security_file_certgen")
        (folder / "squid.conf").write_text(
            settings.format(
                port=port, folder=folder, access=access, inspecting=inspecting, certgen=certgen
            )
        )
        if inspects_as:
            made = [str(certgen), "-c", "-s", f"{folder}/certificates", "-M", "4MB"]
            subprocess.run(made, check=True, capture_output=True)
        _give_away(folder)
        own = f"squid{port}"  # or two of them would share memory
        command = [str(find("squid")), "-N", "-n", own, "-f", f"{folder}/squid.conf"]
        user = UNPRIVILEGED if os.geteuid() == 0 else None
        try:
            with _running(command, port, user=user, log=folder / "cache.log"):
                yield port
        finally:
            for left in SHARED_MEMORY.glob(f"{own}-*"):
                left.unlink()


@contextmanager
def tinyproxy(folder: Path, *, user: str, password: str) -> Iterator[int]:
    """Run tinyproxy, which wants a user and a password; yield its port."""
    need("tinyproxy")
    port = free_port()
    settings = folder / "tinyproxy.conf"
    settings.write_text(TINYPROXY.format(port=port, folder=folder, user=user, password=password))
    command = [str(find("tinyproxy")), "-d", "-c", str(settings)]
    with _running(command, port, log=folder / "tinyproxy.log"):
        yield port


@contextmanager
def nginx(folder: Path, target: int, *, authority: Authority, settings: str = "") -> Iterator[int]:
    """Run nginx, which ends TLS as localhost and speaks HTTP/1.1 only; yield its port.

    Args:
        folder: for its files.
        target: the hub's port.
        authority: behind the certificate that it shows.
        settings: more lines of its server's block.
    """
    need("nginx")
    port = free_port()
    certificate, key = authority.issue("localhost")
    (folder / "nginx.conf").write_text(
        NGINX.format(
            folder=folder,
            port=port,
            target=target,
            certificate=certificate,
            key=key,
            settings=settings,
        )
    )
    command = [str(find("nginx")), "-p", str(folder), "-c", str(folder / "nginx.conf")]
    log = folder / "error.log"
    with _running([*command, "-e", str(log)], port, log=log):
        yield port


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def _give_away(folder: Path) -> None:
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            shutil.chown(path, UNPRIVILEGED, UNPRIVILEGED)


@contextmanager
def _running(
    command: list[str], port: int, *, log: Path, user: str | None = None
) -> Iterator[None]:
    """Run a program that listens; what it wrote into its log is the message if it ends instead."""
    process = subprocess.Popen(command, user=user, group=user, stdin=subprocess.DEVNULL)
    try:
        while not _listens(port):
            if process.poll() is not None:
                raise RuntimeError(f"{command[0]} ended: {log.read_text()}")
            time.sleep(0.01)
        yield
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False
