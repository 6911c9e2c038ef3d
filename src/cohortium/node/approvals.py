"""Approving a study: read it, see what would leave, sign a consent to exactly that, or decline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cohortium.errors import ArgumentError, Problem, RefusedError
from cohortium.governance.grant import Grant, Rows
from cohortium.identity import Document, Identity
from cohortium.node import asking
from cohortium.node.consents import Offer
from cohortium.node.datasets import Registered
from cohortium.node.site import Site
from cohortium.node.work import Trial, try_out
from cohortium.study.bundle import Bundle
from cohortium.transport.client import HubClient
from cohortium.transport.errors import ConflictError

DAY = 24 * 3600.0
DAYS = 90.0
"""How long a consent holds, by default."""


@dataclass(frozen=True)
class Approvals:
    """The studies that a hub offers to a site.

    Attributes:
        site: the node's folder.
        client: the way to the hub.
        identity: the site's keys.
    """

    site: Site
    client: HubClient
    identity: Identity

    def refresh(self) -> list[Offer]:
        """Ask the hub for its studies, and return all that are known here."""
        for study in self.client.call("GET", "/v1/studies"):
            self.site.consents.offered(study)
        return self.site.consents.all()

    def find(self, text: str) -> Offer:
        """Return a study by its name or the beginning of its digest.

        Raises:
            ArgumentError: no such study, or several.
        """
        self.refresh()
        return self.site.consents.find(text)

    def show(self, text: str) -> dict[str, Any]:
        """Return what a study asks for, in plain words; fetches its files, to be read.

        Raises:
            ArgumentError: no such study.
            RefusedError: the hub's study is not what its digest says.
        """
        offer, study, bundle = self._opened(text)
        name = self._name(study)
        audience = asking.Audience.of(bundle, site=name, others=study["granted"])
        folder = self.site.bundles.of(offer.digest)
        asked = bundle.study
        return {
            "digest": offer.digest,
            "name": asked.study.name,
            "purpose": asked.study.purpose,
            "researcher": study["submitted_by"],
            "submitted": study["submitted_at"],
            "status": offer.status,
            "decision": offer.decision,
            "trust": asked.study.trust,
            "site": name,
            "wanted": _is_wanted(bundle, name),
            "sites": None if asked.plan.sites is None else list(asked.plan.sites),
            "approved_by": list(study["granted"]),
            "declined_by": list(study["declines"]),
            "rounds": asked.plan.rounds,
            "evaluations": asking.evaluations(bundle),
            "leaves": asking.leaves_in_words(bundle),
            "seen_by": asking.who_sees(bundle, audience, researcher=study["submitted_by"]),
            "unprotected": asking.unprotected(bundle),
            "data": _wanted_data(bundle),
            "code": asking.code(bundle, folder),
            "text": str(folder / "study.toml"),
            "consent": None if offer.grant is None else asking.once(Grant.of(offer.grant)),
        }

    def preview(self, text: str, *, dataset: str | None = None) -> dict[str, Any]:
        """Return exactly what would leave this site, from its own records; nothing leaves.

        Raises:
            ArgumentError: no such study or dataset.
            DataError: the records changed since they were added, or do not fit the study.
            ModelError, WorkerError, IsolationError: the study's code cannot be run here.
        """
        offer, study, bundle = self._opened(text)
        records = self._records(dataset)
        trial = self._tried(bundle, records, self._name(study))
        grant = self._grant(
            study, bundle, records, trial=trial, keys=self.identity, rounds=None, until=None
        )
        described = trial.description
        return {
            "study": bundle.study.study.name,
            "digest": offer.digest,
            "dataset": records.dataset.name,
            "site": asdict(trial.prepared.summary),
            "leaves": asking.leaves_in_numbers(bundle, described.layout, described.statistics),
            "once": asking.once(grant),
        }

    def approve(
        self,
        text: str,
        *,
        dataset: str | None = None,
        rounds: int | None = None,
        until: float | None = None,
    ) -> Grant:
        """Sign a consent to a study with a dataset, and send it to the hub.

        Args:
            text: the study's name, or the beginning of its digest.
            dataset: this site's name for the records; not needed where there is one.
            rounds: the most rounds to take part in; by default the study's.
            until: when the consent ends, seconds since 1970; by default in 90 days.

        Raises:
            ArgumentError: no such study or dataset, or the study does not ask this site.
            DataError: the records changed since they were added, or do not fit the study.
            ModelError, WorkerError, IsolationError: the study's code cannot be run here.
            RequestError: the hub refuses the consent; nothing is kept then.
        """
        offer, study, bundle = self._opened(text)
        name = self._name(study)
        if not _is_wanted(bundle, name):
            got, expected = f"{name!r}", f"one of {', '.join(bundle.study.plan.sites or ())}"
            advice = "This study does not ask your site; nothing has to be done"
            raise ArgumentError(Problem(offer.name, "plan.sites", got, expected, advice))
        records = self._records(dataset)
        trial = self._tried(bundle, records, name)
        keys = self._keys(offer, study)
        path, blob = self.site.bundles.keep_initial(offer.digest, trial.initial)
        grant = self._grant(
            study, bundle, records, trial=trial, keys=keys, rounds=rounds, until=until, blob=blob
        )
        document = grant.sign(keys.root)
        self.client.upload(blob, path)
        self._post(offer, "grants", {"grant": document.to_json()})
        self._keep(offer, document, records, keys)
        return grant

    def decline(self, text: str, reason: str = "") -> str:
        """Say no, or take a consent back; this node then takes part in no further step.

        Returns:
            what people should know, or nothing.
        """
        offer = self.find(text)
        self.site.consents.decline(offer.digest, now=self.site.clock())
        try:
            self._post(offer, "declines", {"reason": reason})
        except ConflictError:
            return (
                f"The study is {offer.status}: the hub keeps the consent on record, and this node "
                "takes no further part. What has left cannot be taken back."
            )
        return ""

    # -- parts -------------------------------------------------------------------------------------

    def _opened(self, text: str) -> tuple[Offer, Mapping[str, Any], Bundle]:
        offer = self.find(text)
        study = self.client.call("GET", f"/v1/studies/{offer.digest}")
        bundle = self.site.bundles.fetch(study, self.client)
        if bundle.study.study.name != offer.name:
            named = bundle.study.study.name
            raise RefusedError(f"the hub calls the study {offer.name!r}; its own name is {named!r}")
        return offer, study, bundle

    def _name(self, study: Mapping[str, Any]) -> str:
        """Return this site's name in a study: a pseudonym behind an honest broker."""
        return str(study.get("pseudonym") or self.identity.name)

    def _records(self, dataset: str | None) -> Registered:
        found = self.site.datasets.get(dataset)
        self.site.datasets.approved(found.dataset.name, found.fingerprint)
        return found

    def _tried(self, bundle: Bundle, records: Registered, name: str) -> Trial:
        return try_out(bundle, records.dataset, self.site.home.settings, party=name)

    def _keys(self, offer: Offer, study: Mapping[str, Any]) -> Identity:
        """Return the keys for a study: the site's, or ones made for it behind an honest broker."""
        pseudonym = str(study.get("pseudonym") or "")
        if not pseudonym:
            return self.identity
        if offer.identity is not None and offer.identity.name == pseudonym:
            return offer.identity
        day = self.site.clock() // DAY * DAY  # the second would tell who approved when
        return Identity.create(pseudonym, role=self.identity.role, now=day)

    def _grant(
        self,
        study: Mapping[str, Any],
        bundle: Bundle,
        records: Registered,
        *,
        trial: Trial,
        keys: Identity,
        rounds: int | None,
        until: float | None,
        blob: str = "",
    ) -> Grant:
        summary, described = trial.prepared.summary, trial.description
        now = self.site.clock()
        return Grant(
            study=bundle.digest,
            site=self.identity.name,
            certificate=keys.certificate,
            dataset=records.dataset.name,
            fingerprint=records.fingerprint,
            purpose=bundle.study.study.purpose,
            researcher=str(study["submitted_by"]),
            researcher_root=str(study["submitter_root"]),
            rows=Rows(summary.train, summary.validation, summary.test),
            inputs=trial.prepared.raw.train.x.shape[1:],
            rounds=max(bundle.study.plan.rounds, 1) if rounds is None else rounds,
            until=now + DAYS * DAY if until is None else until,
            layout=described.layout,
            initial=described.initial,
            initial_blob=blob,
            environment=described.environment,
            time=now,
        )

    def _post(self, offer: Offer, what: str, body: Mapping[str, Any]) -> None:
        self.client.call("POST", f"/v1/studies/{offer.digest}/{what}", body)

    def _keep(self, offer: Offer, grant: Document, records: Registered, keys: Identity) -> None:
        own = keys if keys.root.public != self.identity.root.public else None
        self.site.consents.approve(
            offer.digest,
            grant,
            dataset=records.dataset.name,
            identity=own,
            now=self.site.clock(),
        )


def _is_wanted(bundle: Bundle, name: str) -> bool:
    sites = bundle.study.plan.sites
    return sites is None or name in sites


def _wanted_data(bundle: Bundle) -> dict[str, Any]:
    """Return the columns that a study reads, and which patients."""
    schema = bundle.study.data
    return {
        "target": schema.target,
        "features": [feature.name for feature in schema.features],
        "cohort": len(schema.cohort),
    }
