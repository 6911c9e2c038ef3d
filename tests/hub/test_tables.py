"""The revisions lead to the tables that the code uses."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from tests.store.servers import BACKENDS, new_database

from cohortium.hub.tables import METADATA
from cohortium.store.database import open_database, reading


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_revisions_lead_to_the_tables(tmp_path: Path, backend: str) -> None:
    engine = open_database(new_database(backend, tmp_path), migrations="cohortium.hub.migrations")

    with reading(engine) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []
    engine.dispose()
