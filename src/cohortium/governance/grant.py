"""A site's signed consent to one study: the smallest one that says what it must.

What a node enforces is its own copy, never what the hub says that it holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from cohortium.errors import RefusedError
from cohortium.identity import Certificate, Document, SigningKey
from cohortium.types import ArraySpec, Layout

KIND = "grant"


@dataclass(frozen=True)
class Rows:
    """How many rows of a dataset a study uses, by part."""

    train: int
    validation: int
    test: int


@dataclass(frozen=True)
class Grant:
    """One site's consent to one study.

    Attributes:
        study: digest of the study bundle that was read.
        site: who consents; in a study with pseudonyms still under its own name, to the broker.
        certificate: the working keys for this study, certified by `certificate.root`.
        dataset: the site's name for the records.
        fingerprint: of the records, keyed with a secret of the site: it tells that records have
            changed, and nothing about them.
        purpose: the study's purpose, as it was read.
        researcher: who gets the result, as the hub said when the study was read.
        researcher_root: the key that certifies the researcher's working keys.
        rows: how many rows the study uses here.
        inputs: shape of one row.
        rounds: the most rounds that the site takes part in.
        until: when the consent ends, seconds since 1970.
        layout: the arrays that the study's model has here.
        initial: digest of the model that round 1 starts from, as computed here.
        initial_blob: SHA-256 of that model's safetensors file.
        environment: versions and processor, to explain models that differ.
        time: when it was given, seconds since 1970.
    """

    study: str
    site: str
    certificate: Certificate
    dataset: str
    fingerprint: str
    purpose: str
    researcher: str
    researcher_root: str
    rows: Rows
    inputs: tuple[int, ...]
    rounds: int
    until: float
    layout: Layout
    initial: str
    initial_blob: str
    environment: Mapping[str, str]
    time: float

    def sign(self, root: SigningKey) -> Document:
        """Return the consent signed with the key that certifies its working keys."""
        body = {f.name: getattr(self, f.name) for f in fields(self)}
        body |= {"certificate": self.certificate.to_json(), "rows": asdict(self.rows)}
        body |= {"inputs": list(self.inputs), "layout": specs(self.layout)}
        return Document.of(KIND, body | {"environment": dict(self.environment)}, root)

    @classmethod
    def of(cls, document: Document) -> Self:
        """Return the consent in a signed document.

        Raises:
            RefusedError: it is not signed by the key that certifies its working keys, or not of
                this form.
        """
        body = dict(document.check(KIND, document.key))
        if body.keys() != {f.name for f in fields(cls)}:
            raise RefusedError("a grant with other entries than a grant has")
        try:
            rows = Rows(**{k: _count(v) for k, v in body["rows"].items()})
            body |= {"certificate": Certificate.from_json(body["certificate"]), "rows": rows}
            body |= {"inputs": tuple(_count(n) for n in body["inputs"])}
            body |= {"layout": layout_of(body["layout"]), "rounds": _count(body["rounds"])}
            body |= {"until": float(body["until"]), "time": float(body["time"])}
            found = cls(**body)
            texts = (found.study, found.site, found.dataset, found.fingerprint, found.purpose)
            pairs = [*texts, found.initial, found.initial_blob, *found.environment.values()]
            pairs += [found.researcher, found.researcher_root]
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise RefusedError(f"a grant that cannot be read ({type(error).__name__})") from error
        if not all(isinstance(text, str) for text in pairs):
            raise RefusedError("a grant with something else where a text belongs")
        found.certificate.check(document.key)
        return found

    def names(self, researcher: Certificate) -> bool:
        """Tell whether the consent is to a study of a researcher, under the same root key."""
        return (self.researcher, self.researcher_root) == (researcher.name, researcher.root)

    def refusal(self, *, study: str, round_: int, now: float) -> str:
        """Return why the consent does not cover a round at a time; empty if it does."""
        if study != self.study:
            return "the consent is to another study"
        if round_ > self.rounds:
            return f"the consent is for {self.rounds} rounds, and this is round {round_}"
        return "the consent has ended" if now > self.until else ""

    def narrowed(self, *, rounds: int, until: float) -> Self:
        """Return a consent to no more rounds, and no longer, than this one."""
        return replace(self, rounds=min(rounds, self.rounds), until=min(until, self.until))


def specs(layout: Layout) -> list[list[Any]]:
    """Return a layout as JSON values: name, shape, dtype of each array."""
    return [[spec.name, list(spec.shape), spec.dtype] for spec in layout.specs]


def layout_of(table: Any) -> Layout:
    """Return the layout that `specs` wrote.

    Raises:
        RefusedError: it is none.
    """
    try:
        found = [ArraySpec(n, tuple(_count(k) for k in shape), d) for n, shape, d in table]
    except (TypeError, ValueError) as error:
        raise RefusedError("a layout that cannot be read") from error
    if not all(isinstance(s.name, str) and s.dtype in DTYPES for s in found):
        raise RefusedError("a layout with an unknown dtype")
    if len({spec.name for spec in found}) != len(found):
        raise RefusedError("a layout with a name twice")
    return Layout(tuple(found))


DTYPES = frozenset(
    f"{kind}{bits}"
    for kind, sizes in {
        "uint": (8, 16, 32, 64),
        "int": (8, 16, 32, 64),
        "float": (16, 32, 64),
        "complex": (64,),
    }.items()
    for bits in sizes
) | {"bool"}
"""Dtypes that a model's arrays may have."""


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise ValueError("not a count")
    return value
