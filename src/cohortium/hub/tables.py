"""The hub's tables. A change here needs a revision in `hub/migrations`; a test compares the two."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

METADATA = MetaData()

COUNTER = BigInteger().with_variant(Integer, "sqlite")
"""A number that the database counts up; SQLite counts only what it calls an integer."""

FACTS = Table(
    "facts",
    METADATA,
    Column("key", String(32), primary_key=True),
    Column("value", Text, nullable=False),
)
"""What the hub knows of itself: `generation`."""

MEMBERS = Table(
    "members",
    METADATA,
    Column("position", COUNTER, primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("role", String(16), nullable=False),
    Column("root", String(64), nullable=False),
    Column("serial", BigInteger, nullable=False),
    Column("joined", Float, nullable=False),
    Column("address", Text, nullable=False),
    Column("revoked", Float),
    Column("reason", Text, nullable=False),
    sqlite_autoincrement=True,
)
"""Sites, researchers and coordinators, in the order in which they joined; `serial`: the newest."""

CERTIFICATES = Table(
    "certificates",
    METADATA,
    Column("name", String(64), ForeignKey("members.name"), primary_key=True),
    Column("serial", BigInteger, primary_key=True, autoincrement=False),
    Column("certificate", JSON, nullable=False),
)

INVITATIONS = Table(
    "invitations",
    METADATA,
    Column("position", COUNTER, primary_key=True),
    Column("name", String(64), nullable=False, index=True),
    Column("role", String(16), nullable=False),
    Column("secret", String(32), nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float, nullable=False),
    Column("used_by", String(64), nullable=False),
    sqlite_autoincrement=True,
)
"""`used_by`: root key of who joined with it; whoever lost the answer may ask again."""

LEASES = Table(
    "leases",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("instance", String(64), nullable=False),
    Column("since", Float, nullable=False),
)
"""The newest process of each member."""

STUDIES = Table(
    "studies",
    METADATA,
    Column("position", COUNTER, primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("name", String(64), nullable=False),
    Column("purpose", Text, nullable=False),
    Column("submitted_by", String(64), nullable=False),
    Column("root", String(64), nullable=False),
    Column("submitted_at", Float, nullable=False),
    Column("status", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("files", JSON, nullable=False),
    Column("sites", JSON),
    Column("run", String(32), nullable=False),
    sqlite_autoincrement=True,
)
"""`root`: the key of who submitted; a name may be somebody else's later."""

ANSWERS = Table(
    "answers",
    METADATA,
    Column("study", String(64), ForeignKey("studies.digest"), primary_key=True),
    Column("site", String(64), ForeignKey("members.name"), primary_key=True),
    Column("grant", JSON(none_as_null=True)),
    Column("reason", Text, nullable=False),
    Column("time", Float, nullable=False),
)
"""What a site answered to a study: its signed consent, or why it declines."""

PSEUDONYMS = Table(
    "pseudonyms",
    METADATA,
    Column("study", String(64), ForeignKey("studies.digest"), primary_key=True),
    Column("site", String(64), ForeignKey("members.name"), primary_key=True),
    Column("pseudonym", String(64), nullable=False),
    UniqueConstraint("study", "pseudonym"),
)
"""In honest broker mode, what a site is called in a study. Nobody but the coordinator sees it."""

RUNS = Table(
    "runs",
    METADATA,
    Column("run", String(32), primary_key=True),
    Column("study", String(64), ForeignKey("studies.digest"), nullable=False),
    Column("roster", JSON, nullable=False),
    Column("members", JSON, nullable=False),
    Column("status", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("started", Float, nullable=False),
    Column("ended", Float),
    Column("carried", Boolean, nullable=False),
    Column("kept", Boolean, nullable=False),
)
"""`members`: each host's name in the run to the member. `carried`: whether parties that the hub
carries have something left to do. `kept`: whether the run's mail is still there."""

FRAMES = Table(
    "frames",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("run", String(32), ForeignKey("runs.run"), nullable=False, index=True),
    Column("blob", String(64), nullable=False, index=True),
    Column("sender", String(64), nullable=False),
    Column("frame", Text, nullable=False),
    Index("ix_frames_run_sender", "run", "sender"),
)
"""A frame as it was sent, and by which member; both emptied when all have acknowledged it, so that
it stays known."""

DELIVERIES = Table(
    "deliveries",
    METADATA,
    Column("seq", COUNTER, primary_key=True),
    Column("host", String(64), nullable=False),
    Column("frame", String(32), ForeignKey("frames.id"), index=True),
    Column("notice", Text),
    Index("ix_deliveries_host_seq", "host", "seq"),
    UniqueConstraint("host", "frame"),
    sqlite_autoincrement=True,
)
"""What members have not acknowledged yet, numbered; a number is never given twice."""

RECEIPTS = Table(
    "receipts",
    METADATA,
    Column("run", String(32), ForeignKey("runs.run"), primary_key=True),
    Column("party", String(200), primary_key=True),
    Column("host", String(64), primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("receipt", JSON, nullable=False),
)
"""The newest receipt of each host for what each party sent."""

BLOBS = Table(
    "blobs",
    METADATA,
    Column("digest", String(64), primary_key=True),
    Column("owner", String(64), primary_key=True, index=True),
    Column("size", BigInteger, nullable=False),
    Column("time", Float, nullable=False),
    Column("whole", Boolean, nullable=False),
)
"""Blobs that were announced, by whom, and whether they have brought the whole; who else may read
one follows from what refers to it."""

STUDY_BLOBS = Table(
    "study_blobs",
    METADATA,
    Column("study", String(64), ForeignKey("studies.digest"), primary_key=True),
    Column("blob", String(64), primary_key=True, index=True),
)
"""Blobs that a study needs for as long as it is known: its files, and its initial model."""
