"""What requests and answers of the hub's API look like; its OpenAPI is made of these."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from cohortium.data.names import SITE_NAME
from cohortium.identity import Certificate, Document
from cohortium.study.read import STUDY_LIMIT
from cohortium.transport.envelope import Frame

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256, as hex.")]
RunId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
FrameId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Name = Annotated[str, Field(pattern=f"^{SITE_NAME.pattern}$")]
HostName = Annotated[str, Field(pattern=f"^@?{SITE_NAME.pattern}$")]
Instance = Annotated[str, Field(pattern=r"^[0-9A-Za-z._-]{1,64}$")]


def _storable(text: str) -> str:
    """Refuse what no database keeps: a half of a character (UnicodeEncodeError), and NUL."""
    if b"\0" in text.encode():
        raise ValueError("text without NUL")
    return text


Text = Annotated[str, AfterValidator(_storable)]
Words = Annotated[Text, Field(max_length=2000)]

# Values that check themselves: from JSON they are read by their own, strict reader.
Signed = Annotated[Document, BeforeValidator(Document.from_json)]
Certificated = Annotated[Certificate, BeforeValidator(Certificate.from_json)]
Sealed = Annotated[Frame, BeforeValidator(Frame.from_json)]


class Body(BaseModel):
    """What a request may say: these keys, and values of exactly these types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Join(Body):
    """A new member's keys, and the proof that it was invited."""

    document: Signed
    mac: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class NewCertificate(Body):
    """The certificate of new working keys."""

    certificate: Certificated


class Lease(Body):
    """A process that wants to act for its member."""

    instance: Instance
    predecessor: Annotated[str, Field(pattern=r"^[0-9A-Za-z._-]{0,64}$")] = ""
    address: Annotated[
        str,
        Field(
            max_length=300,
            pattern=r"^(https://[!-~]+)?$",
            description="Where the node takes direct links; empty: nowhere.",
        ),
    ] = ""
    ended: Annotated[
        bool, Field(description="The process stops: a successor may take over at once.")
    ] = False


class Poll(Body):
    """A question for mail."""

    instance: Instance
    after: Annotated[
        int, Field(ge=0, lt=2**53, description="Acknowledges everything up to this number.")
    ]
    wait: Annotated[float, Field(ge=0, le=55, strict=False, description="Seconds.")] = 0.0
    receipts: Annotated[list[Signed], Field(max_length=1000)] = []


class NewStudy(Body):
    """A study."""

    text: Annotated[Text, Field(max_length=STUDY_LIMIT, description="The study file, as TOML.")]
    files: Annotated[
        dict[Annotated[Text, Field(max_length=1000)], Digest],
        Field(max_length=100, description="Path as the study names it, to an uploaded blob."),
    ] = {}


class NewGrant(Body):
    """A site's signed consent."""

    grant: Signed


class Reason(Body):
    """Why, for people."""

    reason: Words = ""


class Control(Body):
    """An order of a coordinator to a run."""

    op: Literal["extend", "exclude", "readmit"]
    site: Annotated[Text, Field(max_length=64)] = ""
    seconds: Annotated[float, Field(ge=0, le=30 * 24 * 3600, strict=False)] = 0.0
    reason: Words = ""


class End(Body):
    """How a run ended."""

    status: Literal["finished", "stopped", "failed"]
    reason: Words = ""


class NewInvitation(Body):
    """Who is invited."""

    name: Annotated[str, Field(max_length=100)]
    role: Annotated[str, Field(max_length=32)] = "site"
    hours: Annotated[float, Field(gt=0, le=24 * 60, strict=False)] = 72.0


# --- answers ---


class Problem(BaseModel):
    """Why a request was refused: `error` is one word for machines, the rest is for people."""

    error: str
    got: str
    expected: str
    advice: str
    key: str = ""


class About(BaseModel):
    """Which hub this is."""

    id: RunId
    name: str
    certificate: dict[str, Any]
    ca: str
    protocol: list[int]
    version: str
    time: float
    broker: bool


class Joined(BaseModel):
    """What a new member learns; who only asks for name and role, no more than these."""

    name: str
    role: str
    fingerprint: str = ""
    hub: dict[str, Any] = {}
    mac: str = ""


class Member(BaseModel):
    """A member, as others see it."""

    name: str
    role: str
    certificate: dict[str, Any] | None
    address: str
    online: bool
    revoked: bool


class Site(Member):
    """A member, or somebody invited, as a coordinator sees it. `expires`: of an invitation."""

    joined: float | None
    reason: str
    expires: float | None


class Seconds(BaseModel):
    """For how long a process may be silent."""

    seconds: float


class Mail(BaseModel):
    """Messages in order. `generation`: changes when the hub was restored from a backup."""

    generation: str
    messages: list[dict[str, Any]]


class Posted(BaseModel):
    """Whether a frame was not known before."""

    new: bool


class Nothing(BaseModel):
    """It is done."""


class Submitted(BaseModel):
    """The study's name among machines."""

    digest: Digest


class Declined(BaseModel):
    """A site that takes no part."""

    site: str
    reason: str


class Study(BaseModel):
    """A study and its answers. `pseudonym`: yours in it, behind an honest broker."""

    digest: Digest
    name: str
    purpose: str
    submitted_by: str
    submitter_root: str
    submitted_at: float
    status: str
    reason: str
    text: str
    files: dict[str, str]
    sites: list[str] | None
    grants: list[dict[str, Any]]
    granted: list[str]
    declines: list[Declined]
    run: str
    pseudonym: str


class Steered(BaseModel):
    """How a study stands now."""

    status: str
    run: str


class Run(BaseModel):
    """A run, for who is in it."""

    roster: dict[str, Any]
    study: Digest
    status: str
    reason: str


class Code(BaseModel):
    """An invitation. `expires`: seconds since 1970."""

    code: str
    expires: float


class Health(BaseModel):
    """The hub works."""

    status: Literal["ok"]


class Certified(BaseModel):
    """A certificate."""

    certificate: dict[str, Any]
