"""The relay does to a connection what it is told, and nothing else."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from cohortium.testing.relay import Relay


@pytest.fixture
def relay() -> Iterator[Relay]:
    """Yield a relay in front of a server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_echo, args=(listening,), daemon=True).start()
        with Relay(listening.getsockname()[1]) as relay:
            yield relay


def _echo(listening: socket.socket) -> None:
    while True:
        try:
            connection = listening.accept()[0]
        except OSError:
            return
        threading.Thread(target=_send_back, args=(connection,), daemon=True).start()


def _send_back(connection: socket.socket) -> None:
    with connection:
        try:
            while data := connection.recv(1 << 16):
                connection.sendall(data)
        except OSError:
            return


def dial(relay: Relay) -> closing[socket.socket]:
    return closing(socket.create_connection(("127.0.0.1", relay.port), timeout=10))


def echoed(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    return received(connection, len(data))


def received(connection: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count and (data := connection.recv(count - len(got))):
        got += data
    return got


def ended(connection: socket.socket) -> bool:
    try:
        return not connection.recv(1)
    except ConnectionError:
        return True


def is_reset(relay: Relay) -> bool:
    """Tell whether a new connection is reset, while it is made or after."""
    try:
        with dial(relay) as connection:
            return ended(connection)
    except ConnectionError:
        return True


def test_it_passes_on_both_ways(relay: Relay) -> None:
    data = bytes(range(256)) * 2000
    with dial(relay) as one, dial(relay) as other:
        assert echoed(other, b"other") == b"other"
        sender = threading.Thread(target=one.sendall, args=(data,))
        sender.start()
        assert received(one, len(data)) == data
        sender.join()
    assert relay.passed == 2 * (len(data) + len(b"other"))


def test_an_end_is_passed_on_and_the_answer_still_comes(relay: Relay) -> None:
    with dial(relay) as connection:
        connection.sendall(b"last words")
        connection.shutdown(socket.SHUT_WR)
        assert received(connection, 100) == b"last words"


def test_a_cut_resets_old_and_new_connections_until_it_is_restored(relay: Relay) -> None:
    with dial(relay) as old:
        echoed(old, b"a")
        relay.cut()
        assert ended(old)
    assert is_reset(relay)
    relay.restore()
    with dial(relay) as again:
        assert echoed(again, b"b") == b"b"


def test_it_cuts_at_the_byte(relay: Relay) -> None:
    with dial(relay) as connection:
        echoed(connection, b"1234")
        before = relay.passed
        relay.cut_after(10)
        connection.sendall(b"x" * 1000)
        assert ended(connection)
    assert relay.passed == before + 10
    with dial(relay) as again:
        assert echoed(again, b"b") == b"b"


def test_a_stall_keeps_everything_back(relay: Relay) -> None:
    with dial(relay) as connection:
        echoed(connection, b"a")
        relay.stall()
        connection.settimeout(0.2)
        connection.sendall(b"b")
        with pytest.raises(TimeoutError):
            connection.recv(1)
        relay.restore()
        connection.settimeout(10)
        assert received(connection, 1) == b"b"


@pytest.mark.parametrize("command", ["delay", "limit"])
def test_a_slow_link_loses_nothing(relay: Relay, command: str) -> None:
    getattr(relay, command)({"delay": 0.05, "limit": 20_000.0}[command])
    with dial(relay) as connection:
        connection.settimeout(0.02)
        connection.sendall(b"slow" * 250)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(10)
        assert received(connection, 1000) == b"slow" * 250


def test_half_closed_neither_end_can_say_more(relay: Relay) -> None:
    with dial(relay) as connection:
        echoed(connection, b"a")
        relay.half_close()
        assert connection.recv(1) == b""


def test_a_server_that_is_gone_ends_the_connection() -> None:
    with closing(socket.socket()) as deaf:
        deaf.bind(("127.0.0.1", 0))  # and does not listen
        with Relay(deaf.getsockname()[1]) as relay:
            assert is_reset(relay)
