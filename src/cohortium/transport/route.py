"""The way to a hub: through which proxy, trusting whom; and what to say when it is closed."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi
import httpx

from cohortium.errors import ArgumentError, Problem
from cohortium.transport.errors import UnreachableError

KEPT_OPEN = 50.0
"""Seconds for which an idle connection is kept: proxies and servers drop theirs after a minute."""

_HERE = "<arguments>"
_NO_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL"}
_BUSY = {"500", "502", "503", "504"}
_ASK_FOR_CA = (
    "Does a proxy here look into TLS? Then ask IT for the file of its CA and name it: --ca FILE."
)


@dataclass(frozen=True)
class Route:
    """How to reach a hub; made by `route`.

    Attributes:
        url: "https://name" or "https://name:port".
        proxy: "http://[user:password@]name:port"; empty: none.
        ca: a PEM file of further certificate authorities to trust.
    """

    url: str
    proxy: str = ""
    ca: Path | None = None

    @property
    def shown_proxy(self) -> str:
        """The proxy without its password."""
        parts = urlsplit(self.proxy)
        name = f"{parts.username}:***@" if parts.username else ""
        return f"{parts.scheme}://{name}{parts.netloc.rpartition('@')[2]}" if self.proxy else ""

    def trust(self, authority: str = "") -> ssl.SSLContext:
        """Return whom to trust: the hub's own authority (PEM) or the system's, and `ca`.

        Raises:
            ArgumentError: `ca` cannot be read or holds no certificate.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            if authority:
                context.load_verify_locations(cadata=authority)
            else:
                _trust_system(context)
            if self.ca is not None:
                context.load_verify_locations(self.ca)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            got = f"{self.ca or 'the authority of the hub'} ({error})"
            expected = "a PEM file with certificates"
            raise ArgumentError(Problem(_HERE, "ca", got, expected)) from error
        return context

    def trust_anybody(self) -> ssl.SSLContext:
        """Return a context that hides what is sent from who only listens, and proves nothing."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    def client(self, context: ssl.SSLContext, *, timeout: float) -> httpx.Client:
        """Return HTTP/1.1 over this route, with as many connections as there are calls at once."""
        return httpx.Client(
            verify=context,
            proxy=self._proxy(),
            trust_env=False,  # `route` has read it
            timeout=httpx.Timeout(timeout, pool=None),
            limits=httpx.Limits(max_connections=None, keepalive_expiry=KEPT_OPEN),
            headers={
                "User-Agent": "cohortium",
                "Accept": "*/*",
                # What is in between shall neither keep nor compress what is signed.
                "Accept-Encoding": "identity",
                "Cache-Control": "no-store, no-transform",
            },
        )

    def _proxy(self) -> httpx.Proxy | None:
        if not self.proxy:
            return None
        to_proxy = self.trust() if self.proxy.startswith("https:") else None
        return httpx.Proxy(self.proxy, ssl_context=to_proxy)

    def explain(self, error: httpx.TransportError) -> UnreachableError:
        """Return what a failure means for who wants to reach the hub."""
        if isinstance(error, httpx.ProxyError):
            return self._explain_proxy(str(error))
        dialled = f"the proxy {self.shown_proxy}" if self.proxy else self.url
        for cause in _causes(error):
            if isinstance(cause, ssl.SSLCertVerificationError):
                text = f"{self.url} showed a certificate that is not trusted"
                return UnreachableError(
                    "certificate", f"{text}: {cause.verify_message}", _ASK_FOR_CA
                )
            if isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS:
                text, advice = f"{self.url} does not speak TLS", "Is the port right?"
                return UnreachableError("address", text, advice)
            if isinstance(cause, socket.gaierror):
                text = f"the name of {dialled} is not known here"
                return UnreachableError(
                    "name", text, "Is it right? Is there a proxy to go through?"
                )
            if isinstance(cause, ConnectionRefusedError):
                text = f"{dialled} refused the connection"
                return UnreachableError("refused", text, "Is it running, and is the port right?")
        if isinstance(error, httpx.TimeoutException):
            text = f"{dialled} did not answer in time"
            advice = "Does a firewall keep it back? Cohortium needs HTTPS to it, outbound only."
            return UnreachableError("timeout", text, advice)
        return UnreachableError("lost", f"the connection to {self.url} broke off")

    def stranger(self, status: int, reason: str) -> UnreachableError:
        """Return what an answer that nobody signed means."""
        text = f"something else than the hub answered for {self.url}: {status} {reason}".rstrip()
        if status >= 500:
            return UnreachableError("lost", text, "It may not reach the hub at the moment.")
        if status == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            return UnreachableError("proxy", text, "It has to let bodies of 4 MiB through.")
        if status in {401, 403, 407, 511}:
            return UnreachableError("proxy", text, f"Ask IT to allow HTTPS to {self.url}.")
        advice = "Is this the hub's address? A proxy or a portal may also stand before it."
        return UnreachableError("address", text, advice)

    def _explain_proxy(self, status: str) -> UnreachableError:
        text = f"the proxy {self.shown_proxy} answered {status}"
        if status[:3] in _BUSY:
            return UnreachableError("lost", text, f"It could not reach {self.url}, or was busy.")
        if status[:3] in {"401", "407"}:
            advice = (
                "Put its user and password into its address: http://user:password@name:port. "
                "For one that wants NTLM or Kerberos, ask IT for an exception."
            )
        else:
            advice = f"Ask IT to let this machine connect to {self.url}."
        return UnreachableError("proxy", text, advice)


def route(url: str, *, proxy: str | None = None, ca: Path | None = None) -> Route:
    """Return the way to a hub.

    Args:
        url: of the hub.
        proxy: None: as `HTTPS_PROXY` and `NO_PROXY` say, and none to this machine itself; empty:
            none.
        ca: a PEM file of authorities to trust besides the usual ones.

    Raises:
        ArgumentError: an address is none, or is not https (a proxy's: http or https).
    """
    parts = _address("url", url, {"https"})
    if proxy is None:
        proxy = _proxy_set(parts.netloc, parts.hostname or "")
    if proxy:
        _address("proxy", proxy, {"http", "https"})
    return Route(f"https://{parts.netloc}", proxy, ca)


def _proxy_set(host_and_port: str, host: str) -> str:
    """Return the proxy that the environment names for a host; empty: none."""
    if _is_this_machine(host) or proxy_bypass(host_and_port):
        return ""
    found = getproxies()
    proxy = found.get("https") or found.get("all") or ""
    return proxy if "://" in proxy or not proxy else f"http://{proxy}"


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _address(key: str, address: str, schemes: set[str]) -> SplitResult:
    """Return the parts of an address of a scheme, a name and a port, and no more."""
    shown = address.rpartition("@")[2]  # without a password
    expected = " or ".join(f"{scheme}://name:port" for scheme in sorted(schemes))
    try:
        parts = urlsplit(address)
        usable = parts.scheme in schemes and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError as error:
        raise ArgumentError(Problem(_HERE, key, f"{shown} ({error})", expected)) from error
    if not usable or parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ArgumentError(Problem(_HERE, key, shown, expected))
    return parts


def _trust_system(context: ssl.SSLContext) -> None:
    context.load_default_certs()
    places = ssl.get_default_verify_paths()
    if places.cafile is None and places.capath is None:
        context.load_verify_locations(certifi.where())  # a machine that has none


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
