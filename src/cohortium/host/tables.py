"""The tables of journals: each party's newest snapshot, and the events since."""

from __future__ import annotations

from sqlalchemy import Column, Float, Integer, LargeBinary, MetaData, String, Table

MIGRATIONS = "cohortium.host.migrations"
METADATA = MetaData()

SNAPSHOTS = Table(
    "journal_snapshots",
    METADATA,
    Column("run", String(32), primary_key=True),
    Column("party", String(200), primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("at", Float, nullable=False),
)

EVENTS = Table(
    "journal_events",
    METADATA,
    Column("run", String(32), primary_key=True),
    Column("party", String(200), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("body", LargeBinary, nullable=False),
    Column("at", Float, nullable=False),
)
