"""The revisions make exactly the tables that the code uses."""

from __future__ import annotations

from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from cohortium.node.tables import METADATA
from cohortium.store.database import open_database


def test_the_revisions_lead_to_the_tables(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "node.sqlite", migrations="cohortium.node.migrations")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, METADATA) == []
    engine.dispose()
