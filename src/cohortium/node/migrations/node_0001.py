"""The first tables of a node."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "node_0001"
down_revision = None
branch_labels = ("node",)
depends_on = None


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "node_facts",
        sa.Column("key", sa.String(32), primary_key=True),
        sa.Column("value", sa.JSON, nullable=False),
    )
    op.create_table(
        "node_datasets",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("descriptor", sa.JSON, nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("summary", sa.JSON, nullable=False),
        sa.Column("added", sa.Float, nullable=False),
    )
    op.create_table(
        "node_studies",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("submitted", sa.Float, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("decision", sa.String(16), nullable=False),
        sa.Column("dataset", sa.String(64), nullable=False),
        sa.Column("grant", sa.JSON),
        sa.Column("identity", sa.JSON),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("notified", sa.Boolean, nullable=False),
        sa.Column("decided", sa.Float),
    )
    op.create_table(
        "node_runs",
        sa.Column("run", sa.String(32), primary_key=True),
        sa.Column("study", sa.String(64), nullable=False, index=True),
        sa.Column("roster", sa.JSON, nullable=False),
        sa.Column("consent", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("trouble", sa.Text, nullable=False),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("started", sa.Float, nullable=False),
        sa.Column("changed", sa.Float, nullable=False),
    )
