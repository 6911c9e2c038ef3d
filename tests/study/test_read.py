from __future__ import annotations

import os
from pathlib import Path

import pytest

from cohortium.errors import StudyError
from cohortium.study.read import STUDY_LIMIT, parse, read

TEXT = """\
[study]
name = "small"
purpose = "Show how it works."

[task]
kind = "binary-classification"
model = "linear"
optimizer = {kind = "sgd", lr = 1}  # a whole number where a number is meant

[plan]
rounds = 3
local = {epochs = 1}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(StudyError) as caught:
        read(path)
    assert str(path.parent) not in str(caught.value)
    return str(caught.value)


def test_a_study_is_read(file: Path) -> None:
    bundle = read(str(file))
    assert bundle.study.canonical()["task"]["optimizer"]["lr"] == 1.0
    assert bundle.files == {}


def test_a_byte_order_mark_is_accepted(file: Path) -> None:
    plain = read(file).digest
    file.write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    assert read(file).digest == plain


def test_what_came_as_text_is_the_same_study(file: Path) -> None:
    own = TEXT.replace(
        'model = "linear"', 'model = {kind = "code", file = "net.py", build = "Net"}'
    )
    (file.parent / "net.py").write_text("class Net: pass", encoding="utf-8")
    file.write_text(own, encoding="utf-8")
    files = {"net.py": b"class Net: pass", "other.py": b"not named"}
    assert parse(own, files, where="here").digest == read(file).digest
    assert parse(own, {"net.py": b"class Net: 1"}, where="here").digest != read(file).digest
    with pytest.raises(StudyError, match=r"^here: task\.model\.file: got 'net\.py'"):
        parse(own, {"other.py": b""}, where="here")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path / "stdy.toml")
    assert message.startswith("stdy.toml: got no such file")
    assert "cohortium new" in message


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "got a folder" in refusal(tmp_path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not a plain file" in refusal(tmp_path / "pipe")


def test_an_impossible_path_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path / ("x" * 300))
    assert "got " in refusal(tmp_path / "a\0b")


def test_a_file_of_100_megabytes_is_refused_by_its_size(file: Path) -> None:
    os.truncate(file, 100_000_000)
    assert refusal(file).startswith("study.toml: got 100000000 bytes; expected at most 1000000")


def test_the_largest_file_is_read(file: Path) -> None:
    file.write_text(TEXT + "#" * (STUDY_LIMIT - len(TEXT)), encoding="utf-8")
    assert read(file).study.plan.rounds == 3


def test_other_encodings_are_refused(file: Path) -> None:
    file.write_bytes(TEXT.encode().replace(b"works", b"w\xf6rks"))
    assert "not UTF-8 at position 48" in refusal(file)


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("seed == 1", "at line 4, column 7"),
        ("seed = ", "at line 4, column 8"),
        ("name = 'again'", "Cannot overwrite a value"),
        ("seed = [1, 2", "at line 6, column"),
        (f"seed = {'1' * 5000}", "invalid TOML"),
        (f"seed = {'[' * 5000}", "without end"),
        ("x" + ".x" * 100_000 + " = 1", "very many parts in line 4"),
        ('"x"' + '."\\""' * 100_000 + " = 1", "very many parts in line 4"),
        ("[" + "x . " * 100_000 + "x]", "very many parts in line 4"),
    ],
    ids=lambda text: str(text)[:20],
)
def test_what_is_no_toml_is_refused_with_its_place(file: Path, line: str, place: str) -> None:
    file.write_text(TEXT.replace('works."', f'works."\n{line}'), encoding="utf-8")
    message = refusal(file)
    assert message.startswith("study.toml: got ")
    assert place in message


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("seed = nan", "study.seed: got nan; expected text, a finite number"),
        ("seed = 2026-01-01", "study.seed: got a value of type date; expected text, a finite"),
        ("seed = 1e999", "study.seed: got inf"),
        ("sed = 1", "study.sed: got an unknown key; expected one of name, purpose, seed, trust"),
        ("a" + ".a" * 31 + " = 1", "study.a.a: got a deeper nesting"),
    ],
)
def test_what_is_no_study_is_refused_with_file_and_key(file: Path, line: str, problem: str) -> None:
    file.write_text(TEXT.replace('works."', f'works."\n{line}'), encoding="utf-8")
    assert refusal(file).startswith(f"study.toml: {problem}")


def test_an_empty_file_lacks_three_sections(file: Path) -> None:
    file.write_text("", encoding="utf-8")
    with pytest.raises(StudyError) as caught:
        read(file)
    assert [problem.key for problem in caught.value.problems] == ["study", "task", "plan"]


def test_a_missing_model_file_is_refused_with_its_key(file: Path) -> None:
    file.write_text(
        TEXT.replace('"linear"', '{kind = "code", file = "net.py", build = "Net"}'),
        encoding="utf-8",
    )
    assert refusal(file).startswith("study.toml: task.model.file: got 'net.py', which is not there")
