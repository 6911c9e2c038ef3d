"""What the hub counts, for Prometheus: requests, refusals, mail, bytes, who is online.

Labels are routes, statuses and reasons: nothing of a member's name, of a study or of a record.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from cohortium.hub.service import HubService

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The counters of one hub."""

    def __init__(self, service: HubService) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_State(service))
        self.requests = Counter(
            "cohortium_hub_requests",
            "Answered requests.",
            ["route", "status"],
            registry=self._registry,
        )
        self.refusals = Counter(
            "cohortium_hub_refusals",
            "Refused requests, by reason.",
            ["reason"],
            registry=self._registry,
        )
        self.received = Counter(
            "cohortium_hub_received_bytes", "Bytes of request bodies.", registry=self._registry
        )
        self.sent = Counter(
            "cohortium_hub_sent_bytes", "Bytes of answers' bodies.", registry=self._registry
        )
        self.seconds = Histogram(
            "cohortium_hub_request_seconds",
            "Time to answer; without long polls.",
            registry=self._registry,
        )

    def text(self) -> bytes:
        """Return all counters in Prometheus' text format."""
        return generate_latest(self._registry)


class _State(Collector):
    """What is counted when somebody asks."""

    def __init__(self, service: HubService) -> None:
        self._service = service

    def collect(self) -> Iterator[GaugeMetricFamily]:
        service = self._service
        members = [m for m in service.registry.members() if m.role == "site"]
        online = sum(service.leases.is_online(member.name) for member in members)
        mail = service.mailbox.count()
        yield _gauge("mailbox_messages", "Messages that wait to be acknowledged.", mail)
        yield _gauge(
            "sites",
            "Sites that joined and are not revoked.",
            sum(m.revoked is None for m in members),
        )
        yield _gauge("sites_online", "Sites whose node shows signs of life.", online)
        yield _gauge("blob_bytes", "Bytes of blobs.", service.depot.total())

    def describe(self) -> list[GaugeMetricFamily]:
        return []


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"cohortium_hub_{name}", text, value=value)
