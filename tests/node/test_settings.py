"""`node.toml`: an empty file is fine, a wrong one is refused with what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from cohortium.errors import ArgumentError
from cohortium.node.settings import Settings, read_settings

WHOLE = """
isolation = "best"
[hub]
url = "https://hub.example"
proxy = "http://proxy:3128"
ca = "proxy.pem"
[limits]
threads = 4
memory_gib = 8
disk_free_gib = 0
hours = "20:00-06:00"
studies = 2
gpu = false
[notify]
webhook = "https://chat.example/hook"
[notify.mail]
to = ["steward@a.example"]
sender = "node@a.example"
host = "mail.a.example"
[metrics]
listen = "127.0.0.1:9464"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "node.toml"
    path.write_text(text)
    return path


def test_no_file_and_an_empty_one_are_the_defaults(tmp_path: Path) -> None:
    assert read_settings(tmp_path / "node.toml") == Settings()
    assert read_settings(written(tmp_path, "")) == Settings()


def test_every_key_can_be_set(tmp_path: Path) -> None:
    settings = read_settings(written(tmp_path, WHOLE))
    assert settings.limits.memory_gib == 8
    assert settings.notify.mail is not None
    assert settings.notify.mail.starttls


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        ("[limit]\nthreads = 1", "limit", "limits"),
        ("[limits]\nthread = 1", "limits.thread", "Did you mean 'threads'?"),
        ('[limits]\nthreads = "4"', "limits.threads", "a whole number"),
        ("[limits]\nthreads = 0", "limits.threads", "at least 1"),
        ('[limits]\nhours = "8pm-6am"', "limits.hours", "20:00-06:00"),
        ('[limits]\nhours = "20:00-25:00"', "limits.hours", "20:00-06:00"),
        ('[hub]\nproxy = "proxy:3128"', "hub.proxy", "http://proxy:3128"),
        ('isolation = "none"', "isolation", "'strong' or 'best'"),
        ('[notify.mail]\nto = ["a@b"]\nsender = "a@b"', "notify.mail.host", "The mail server."),
        ('[notify.mail]\nto = ["a"]\nsender = "a@b"\nhost = "m"', "notify.mail.to", "mail address"),
        ('[metrics]\nlisten = "127.0.0.1:99999"', "metrics.listen", "port"),
        ('[metrics]\nlisten = "0.0.0.0:9464"', "metrics.listen", "public = true"),
        ("threads = ", "", "invalid TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, key: str, said: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        read_settings(written(tmp_path, text))
    (problem,) = caught.value.problems
    assert problem.where == "node.toml"
    assert problem.key == key
    assert said in str(problem)


def test_a_listener_for_others_must_be_meant(tmp_path: Path) -> None:
    text = '[metrics]\nlisten = "0.0.0.0:9464"\npublic = true'
    assert read_settings(written(tmp_path, text)).metrics.public


def test_every_key_says_what_it_means() -> None:
    def check(model: type[BaseModel]) -> None:
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
            for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    check(kind)

    check(Settings)
