"""The node's tables. A change here needs a revision in `node/migrations`; a test compares them."""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, Float, Integer, MetaData, String, Table, Text

METADATA = MetaData()

FACTS = Table(
    "node_facts",
    METADATA,
    Column("key", String(32), primary_key=True),
    Column("value", JSON, nullable=False),
)
"""What the node knows of itself: its last instance, where it stands in its inbox, if it stopped."""

DATASETS = Table(
    "node_datasets",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("descriptor", JSON, nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("summary", JSON, nullable=False),
    Column("added", Float, nullable=False),
)
"""Records by the site's own name. `fingerprint`: keyed; it tells that they changed."""

STUDIES = Table(
    "node_studies",
    METADATA,
    Column("digest", String(64), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("purpose", Text, nullable=False),
    Column("submitted", Float, nullable=False),
    Column("status", String(16), nullable=False),
    Column("decision", String(16), nullable=False),
    Column("dataset", String(64), nullable=False),
    Column("grant", JSON(none_as_null=True)),
    Column("identity", JSON(none_as_null=True)),
    Column("seconds", Float, nullable=False),
    Column("notified", Boolean, nullable=False),
    Column("decided", Float),
)
"""Studies that the hub offered. `decision`: empty, "approved" or "declined". `status`: the hub's.
`identity`: keys made for this study alone, where sites appear under pseudonyms. `seconds`: of
computing."""

RUNS = Table(
    "node_runs",
    METADATA,
    Column("run", String(32), primary_key=True),
    Column("study", String(64), nullable=False, index=True),
    Column("roster", JSON, nullable=False),
    Column("consent", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("trouble", Text, nullable=False),
    Column("round", Integer, nullable=False),
    Column("started", Float, nullable=False),
    Column("changed", Float, nullable=False),
)
"""Runs that this node takes part in. `status`: "running", "paused", "finished", "stopped", "failed"
or "refused". `consent`: digest of the grant that it began on, which serves no other; empty where it
was refused. `trouble`: what last went wrong here."""
