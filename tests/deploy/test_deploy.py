"""The files for operators are what their tools take, and type commands that there are."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from typer.main import get_command

from cohortium.cli.main import app

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
TEXTS = [*UNITS, DEPLOY / "compose.yaml"]


def verb(words: list[str]) -> Any:
    """Return the command that some words name; the words after it must be options of it."""
    command: Any = get_command(app)
    rest = list(words)
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]
    options = {name for parameter in command.params for name in parameter.opts}
    unknown = [word for word in rest if word.startswith("--") and word not in options]
    if getattr(command, "commands", None) or unknown:
        raise LookupError(f"{words}: no such verb or option {unknown}")
    return command


def test_a_verb_that_is_not_there_is_noticed() -> None:
    for words in (["hub", "upp"], ["hub", "up", "--port", "1"], ["hub"]):
        with pytest.raises(LookupError):
            verb(words)


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
class TestUnits:
    def test_systemd_takes_it(self, unit: Path, tmp_path: Path) -> None:
        if shutil.which("systemd-analyze") is None:
            pytest.skip("systemd is not here")
        program = tmp_path / ".local/bin/cohortium"
        program.parent.mkdir(parents=True)
        program.symlink_to(sys.executable)
        here = {**os.environ, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
        done = subprocess.run(
            ["systemd-analyze", "--user", "--man=no", "verify", str(unit)],
            env=here,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")

    def test_it_restarts_for_ever_and_keeps_secrets(self, unit: Path) -> None:
        parsed = ConfigParser(strict=False, interpolation=None)
        parsed.optionxform = str  # type: ignore[assignment,method-assign]
        parsed.read(unit, "utf-8")
        service = parsed["Service"]
        assert (service["Restart"], service["UMask"]) == ("always", "0077")
        assert parsed["Unit"]["StartLimitIntervalSec"] == "0"
        assert service["NoNewPrivileges"] == "yes"
        assert parsed["Install"]["WantedBy"] == "default.target"

    def test_it_starts_a_verb_that_there_is(self, unit: Path) -> None:
        [line] = re.findall(r"^ExecStart=%h/\.local/bin/cohortium (.+)$", unit.read_text(), re.M)
        verb(line.split())


class TestCompose:
    def test_it_is_a_compose_file(self) -> None:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "check_jsonschema"),
                *("--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml")),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout

    def test_its_services_type_verbs_that_there_are(self) -> None:
        services = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))["services"]
        assert services.keys() == {"hub", "node"}
        for service in services.values():
            verb(service["command"])

    def test_a_node_opens_no_port_and_both_give_up_their_rights(self) -> None:
        services = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))["services"]
        assert "ports" not in services["node"]
        for service in services.values():
            assert service["cap_drop"] == ["ALL"]
            assert service["read_only"] is True
            assert service["security_opt"] == ["no-new-privileges:true"]

    def test_what_its_comments_say_to_type_is_there(self) -> None:
        lines = re.findall(
            r"run --rm (?:hub|node) (.+)$", (DEPLOY / "compose.yaml").read_text(), re.M
        )
        assert len(lines) == 3
        for line in lines:
            verb(line.split())


def test_the_image_runs_as_nobody_special() -> None:
    lines = (DEPLOY / "Dockerfile").read_text("utf-8").splitlines()
    assert "USER 10001" in lines
    assert 'ENTRYPOINT ["cohortium"]' in lines
    assert lines.index("USER 10001") < lines.index('ENTRYPOINT ["cohortium"]')


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_what_units_tell_people_to_type_is_there(path: Path) -> None:
    for line in re.findall(r"cohortium ((?:hub|node) .+?)\s*$", path.read_text("utf-8"), re.M):
        if not line.startswith("hub hub") and "{" not in line:
            verb(line.split())
