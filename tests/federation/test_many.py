"""Many nodes at one hub: all of them take part, and the bits are those of a simulation."""

from __future__ import annotations

from pathlib import Path

from tests.federation.consortium import Consortium, running

ROWS = {f"site-{number}": 20 + 3 * number for number in range(8)}


def test_eight_nodes_train_what_a_simulation_trains(tmp_path: Path) -> None:
    with running(Consortium(tmp_path, rows=ROWS)) as made:
        study = made.write_study(1, rounds=2)
        digest = made.begin(study)
        found = made.result(digest)
        assert {row["status"] for row in found["participation"]} == {"in"}
        assert len(found["participation"]) == 2 * len(ROWS)
        assert found["model_digest"] == made.simulated(study).model.digest
