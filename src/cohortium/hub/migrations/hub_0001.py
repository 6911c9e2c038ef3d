"""The first tables of a hub."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "hub_0001"
down_revision = None
branch_labels = ("hub",)
depends_on = None

COUNTER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make them."""
    _members()
    _studies()
    _mail()


def _members() -> None:
    op.create_table(
        "facts",
        sa.Column("key", sa.String(32), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.create_table(
        "members",
        sa.Column("position", COUNTER, primary_key=True),
        sa.Column("name", sa.String(64), nullable=False, unique=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("root", sa.String(64), nullable=False),
        sa.Column("serial", sa.BigInteger, nullable=False),
        sa.Column("joined", sa.Float, nullable=False),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("revoked", sa.Float),
        sa.Column("reason", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "certificates",
        sa.Column("name", sa.String(64), sa.ForeignKey("members.name"), primary_key=True),
        sa.Column("serial", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("certificate", sa.JSON, nullable=False),
    )
    op.create_table(
        "invitations",
        sa.Column("position", COUNTER, primary_key=True),
        sa.Column("name", sa.String(64), nullable=False, index=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("secret", sa.String(32), nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("expires", sa.Float, nullable=False),
        sa.Column("used_by", sa.String(64), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("instance", sa.String(64), nullable=False),
        sa.Column("since", sa.Float, nullable=False),
    )


def _studies() -> None:
    op.create_table(
        "studies",
        sa.Column("position", COUNTER, primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("submitted_by", sa.String(64), nullable=False),
        sa.Column("root", sa.String(64), nullable=False),
        sa.Column("submitted_at", sa.Float, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("files", sa.JSON, nullable=False),
        sa.Column("sites", sa.JSON),
        sa.Column("run", sa.String(32), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "answers",
        sa.Column("study", sa.String(64), sa.ForeignKey("studies.digest"), primary_key=True),
        sa.Column("site", sa.String(64), sa.ForeignKey("members.name"), primary_key=True),
        sa.Column("grant", sa.JSON),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("time", sa.Float, nullable=False),
    )
    op.create_table(
        "pseudonyms",
        sa.Column("study", sa.String(64), sa.ForeignKey("studies.digest"), primary_key=True),
        sa.Column("site", sa.String(64), sa.ForeignKey("members.name"), primary_key=True),
        sa.Column("pseudonym", sa.String(64), nullable=False),
        sa.UniqueConstraint("study", "pseudonym"),
    )
    op.create_table(
        "runs",
        sa.Column("run", sa.String(32), primary_key=True),
        sa.Column("study", sa.String(64), sa.ForeignKey("studies.digest"), nullable=False),
        sa.Column("roster", sa.JSON, nullable=False),
        sa.Column("members", sa.JSON, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("started", sa.Float, nullable=False),
        sa.Column("ended", sa.Float),
        sa.Column("carried", sa.Boolean, nullable=False),
        sa.Column("kept", sa.Boolean, nullable=False),
    )


def _mail() -> None:
    op.create_table(
        "frames",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("run", sa.String(32), sa.ForeignKey("runs.run"), nullable=False, index=True),
        sa.Column("blob", sa.String(64), nullable=False, index=True),
        sa.Column("sender", sa.String(64), nullable=False),
        sa.Column("frame", sa.Text, nullable=False),
    )
    op.create_index("ix_frames_run_sender", "frames", ["run", "sender"])
    op.create_table(
        "deliveries",
        sa.Column("seq", COUNTER, primary_key=True),
        sa.Column("host", sa.String(64), nullable=False),
        sa.Column("frame", sa.String(32), sa.ForeignKey("frames.id"), index=True),
        sa.Column("notice", sa.Text),
        sa.UniqueConstraint("host", "frame"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_deliveries_host_seq", "deliveries", ["host", "seq"])
    op.create_table(
        "receipts",
        sa.Column("run", sa.String(32), sa.ForeignKey("runs.run"), primary_key=True),
        sa.Column("party", sa.String(200), primary_key=True),
        sa.Column("host", sa.String(64), primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("receipt", sa.JSON, nullable=False),
    )
    op.create_table(
        "blobs",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("owner", sa.String(64), primary_key=True, index=True),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("time", sa.Float, nullable=False),
        sa.Column("whole", sa.Boolean, nullable=False),
    )
    op.create_table(
        "study_blobs",
        sa.Column("study", sa.String(64), sa.ForeignKey("studies.digest"), primary_key=True),
        sa.Column("blob", sa.String(64), primary_key=True, index=True),
    )
