"""`cohortium node up`: the process that takes part, for as long as it runs.

It dials out only. Whatever ends it, the next start goes on from the journals: a kill is only a
quick stop. Its time is a series of sessions; one ends when keys or settings change, when the hub
turns this node away, or when the node stops.

When the hub says that the site was revoked, that another process has taken over, or that it speaks
another version, the node ends: waiting would change nothing, a person has to. A wrong clock, an
unknown key or a fault of the hub, or a disk that is full, it tries again, since that can be put
right elsewhere.
"""

from __future__ import annotations

import queue
import threading
from typing import Literal

import structlog
from sqlalchemy.exc import SQLAlchemyError

from cohortium.errors import RefusedError, RunFailedError
from cohortium.node.metrics import Metrics, served
from cohortium.node.notify import Message, Notifier
from cohortium.node.session import Session
from cohortium.node.settings import read_settings
from cohortium.node.site import Site
from cohortium.transport.errors import ConflictError, ProtocolError, RevokedError

Order = Literal["stop", "kill", "reload"]
FINAL = (RevokedError, ConflictError, ProtocolError)
"""What the hub says that waiting does not change."""

PASSING = (RefusedError, OSError, SQLAlchemyError)
"""What may pass: a clock, a key or a fault that is put right elsewhere, a disk that is full."""

Passing = RefusedError | OSError | SQLAlchemyError

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0
"""Seconds before a hub that turned this node away is asked again."""


class Agent:
    """A running node.

    Args:
        site: the node's folder.

    Attributes:
        metrics: what it counts.
        ended: set when it has ended.
    """

    def __init__(self, site: Site) -> None:
        self._site, self._home = site, site.home
        self._log = structlog.get_logger()
        self._orders = queue.SimpleQueue[Order | BaseException | None]()
        self.metrics, self.ended = Metrics(), threading.Event()
        self._session: Session | None = None

    def order(self, order: Order) -> None:
        """Give an order; may be called from any thread, and from a signal's handler."""
        self._orders.put(order)

    def run(self) -> None:
        """Take part until it is ordered to stop.

        Raises:
            RefusedError: a node is running in this folder already.
            ArgumentError: this node has not joined a hub, or its settings are wrong.
            RunFailedError: the hub turned this node away, and a person has to do something.
        """
        try:
            with self._home.locked():
                self._site.remember("stopped", None)
                listen = self._home.settings.metrics.listen
                with served(listen, self.metrics, self._health) as port:
                    self._log.info("node up", home=str(self._home.folder), metrics_port=port)
                    self._sessions()
                self._log.info("node down")
        finally:
            self.ended.set()

    def _sessions(self) -> None:
        pause = FIRST_PAUSE
        while (end := self._one_session()) != "stop":
            if isinstance(end, PASSING):
                self._log.error("the session broke off; trying again", reason=_told(end))
                self.metrics.refused.labels("node").inc()
                if self._ordered_to_stop(pause):
                    return
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                pause = FIRST_PAUSE

    def _one_session(self) -> Order | Passing:
        """Run a session to its end; return why it ended."""
        settings = read_settings(self._home.folder / "node.toml")
        notifier = Notifier(settings.notify, self._log, delivered=self._delivered)
        session = Session(self._site, settings, notifier=notifier, metrics=self.metrics)
        self._session = session
        thread = threading.Thread(target=self._follow, args=(session,), name="session")
        thread.start()
        try:
            return self._directed(session)
        finally:
            session.close(now=True)
            thread.join()
            notifier.close()

    def _follow(self, session: Session) -> None:
        try:
            session.run()
        except BaseException as error:  # noqa: BLE001 - raised again where the orders are read
            self._orders.put(error)
        else:
            self._orders.put(None)

    def _directed(self, session: Session) -> Order | Passing:
        """Carry out orders until the session ends; return why it ended."""
        reason: Order = "reload"
        while (order := self._orders.get()) is not None:
            match order:
                case "stop":
                    reason = "stop"
                    self._log.info("stopping; steps in progress end first")
                    threading.Thread(target=session.close, name="close").start()
                case "kill":
                    session.close(now=True)
                    return "stop"
                case "reload":
                    session.close(now=True)
                case Exception() if reason == "stop":
                    return reason
                case RefusedError() if isinstance(order, FINAL):
                    raise _final(order) from order
                case RefusedError() | OSError() | SQLAlchemyError():
                    return order
                case BaseException():
                    raise order
        return reason

    def _ordered_to_stop(self, seconds: float) -> bool:
        """Wait, and tell whether an order to stop came; any other ends the wait."""
        try:
            return self._orders.get(timeout=seconds) in ("stop", "kill")
        except queue.Empty:
            return False

    def _health(self) -> str:
        session = self._session
        return "away" if session is None or session.is_away else "reachable"

    def _delivered(self, message: Message) -> None:
        if message.event == "waits-for-approval":
            self._site.consents.notified(message.digest)


def _told(error: Passing) -> str:
    return str(error) if isinstance(error, RefusedError) else type(error).__name__


_ADVICE: dict[type[RefusedError], str] = {
    RevokedError: "Nothing more is computed or sent. To take part again, ask the coordinator for "
    "a new code, move this folder away, and join anew",
    ProtocolError: "Install the version of Cohortium that the hub speaks, then: cohortium node up",
}


def _final(error: RefusedError) -> RunFailedError:
    structlog.get_logger().error("the hub turned this node away; it stops", reason=str(error))
    advice = _ADVICE.get(type(error), "")
    return RunFailedError(f"the hub turned this node away: {error}", advice)
