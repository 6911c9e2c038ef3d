"""`node.toml`: what the people of a hospital may set. Every key is optional, and so is the file."""

from __future__ import annotations

import json
import re
import tomllib
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cohortium.errors import ArgumentError, Problem
from cohortium.study.problems import explain

FILE = "node.toml"
_HOURS = r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$"
_HTTP = r"^https?://[^\s/]+\S*$"


class Section(BaseModel):
    """A table of the file: strict, unchangeable, without unknown keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Hub(Section):
    """How the hub is reached, where that differs from what joining found out."""

    url: Annotated[
        str | None,
        Field(pattern=_HTTP, description="The hub's address, if it moved after this node joined."),
    ] = None
    proxy: Annotated[
        str | None,
        Field(
            pattern=_HTTP,
            description="The proxy that leads out, such as `http://proxy:3128`; by default what "
            "HTTPS_PROXY says.",
        ),
    ] = None
    ca: Annotated[
        str | None,
        Field(
            description="A PEM file of certificates to trust beside the system's, such as that of "
            "a proxy that inspects TLS. Relative to this folder."
        ),
    ] = None


class Limits(Section):
    """What studies may use of this machine, all together."""

    threads: Annotated[
        int | None,
        Field(ge=1, le=4096, description="Processor threads of one study; by default all."),
    ] = None
    memory_gib: Annotated[
        float | None,
        Field(gt=0, description="Memory of one study's worker, in GiB; by default no limit."),
    ] = None
    disk_free_gib: Annotated[
        float,
        Field(ge=0, description="Below this much free disk, in GiB, no step of a study starts."),
    ] = 1.0
    hours: Annotated[
        str | None,
        Field(
            pattern=_HOURS,
            description='Local time of day in which steps may start, such as "20:00-06:00"; '
            "by default always.",
        ),
    ] = None
    studies: Annotated[
        int,
        Field(ge=1, le=1000, description="Studies that may compute at the same time."),
    ] = 1
    gpu: Annotated[bool, Field(description="Whether studies may use a GPU.")] = True
    journal_days: Annotated[
        float, Field(ge=0, description="Days for which the journals of ended runs are kept.")
    ] = 30.0


class Mail(Section):
    """Where notifications go by mail."""

    to: Annotated[
        tuple[str, ...],
        Field(strict=False, min_length=1, description="Who gets them."),
    ]
    sender: Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+$", description="Who sends them.")]
    host: Annotated[str, Field(min_length=1, description="The mail server.")]
    port: Annotated[int, Field(ge=1, le=65535, description="Its port.")] = 587
    starttls: Annotated[
        bool, Field(description="Encrypt the connection; only a server on this machine needs none.")
    ] = True
    user: Annotated[
        str | None,
        Field(
            description="Name to log in with; the password stands in the environment variable "
            "COHORTIUM_MAIL_PASSWORD, never in this file."
        ),
    ] = None

    @field_validator("to")
    @classmethod
    def _are_addresses(cls, to: tuple[str, ...]) -> tuple[str, ...]:
        for address in to:
            if not re.fullmatch(r"[^@\s,]+@[^@\s,]+", address):
                raise ValueError(f"{address!r} is no mail address")
        return to


class Notify(Section):
    """Who hears of studies that wait for approval, and of runs that stopped."""

    webhook: Annotated[
        str | None, Field(pattern=_HTTP, description="An address that gets a JSON message by POST.")
    ] = None
    mail: Annotated[Mail | None, Field(description="Mail, too.")] = None


class Metrics(Section):
    """A listener for the hospital's own monitoring. Off unless an address is given."""

    listen: Annotated[
        str | None,
        Field(
            pattern=r"^\S+:\d{1,5}$",
            description='Address and port of /metrics and /healthz, such as "127.0.0.1:9464".',
        ),
    ] = None
    public: Annotated[
        bool, Field(description="Allow an address that other machines can reach.")
    ] = False

    @field_validator("listen")
    @classmethod
    def _has_port(cls, listen: str | None) -> str | None:
        if listen is not None and not 0 <= address_of(listen)[1] <= 65535:
            raise ValueError(f"{listen!r} has no port between 0 and 65535")
        return listen


class Direct(Section):
    """Links from other sites' nodes, without the hub in between. Nothing needs them."""

    listen: Annotated[
        str | None,
        Field(pattern=r"^\S+:\d{1,5}$", description='Where to listen, such as "0.0.0.0:9443".'),
    ] = None
    address: Annotated[
        str | None,
        Field(
            pattern=r"^https://[^\s/]+$",
            max_length=300,
            description="Where other sites reach it: `https://name:port`.",
        ),
    ] = None

    @model_validator(mode="after")
    def _come_together(self) -> Direct:
        if (self.listen is None) != (self.address is None):
            raise ValueError("direct.listen and direct.address need each other")
        return self


class Settings(Section):
    """The whole file."""

    hub: Annotated[Hub, Field(description="How the hub is reached.")] = Hub()
    limits: Annotated[Limits, Field(description="What studies may use of this machine.")] = Limits()
    notify: Annotated[Notify, Field(description="Who hears of what waits.")] = Notify()
    metrics: Annotated[Metrics, Field(description="For the hospital's monitoring.")] = Metrics()
    direct: Annotated[Direct, Field(description="Links from other sites' nodes.")] = Direct()
    isolation: Annotated[
        Literal["strong", "best"],
        Field(
            description="`strong` refuses to run a study's code where this machine cannot isolate "
            "it; `best` isolates it as well as the machine can."
        ),
    ] = "strong"


def read_settings(path: Path) -> Settings:
    """Read `node.toml`; a file that is not there is an empty one.

    Raises:
        ArgumentError: with every problem found in it.
    """
    try:
        data = tomllib.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        return Settings()
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        got = f"invalid TOML: {error}"
        raise ArgumentError(Problem(path.name, "", got, "TOML in UTF-8")) from error
    try:  # as JSON: a list may be a tuple, but "1" is no number
        settings = Settings.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        raise ArgumentError(*explain(error, data=data, root=Settings, where=path.name)) from None
    _check_listener(settings.metrics, path.name)
    return settings


def address_of(listen: str) -> tuple[str, int]:
    """Return host and port of an address.

    >>> address_of("[::1]:80")
    ('::1', 80)
    """
    host, _, port = listen.rpartition(":")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _check_listener(metrics: Metrics, where: str) -> None:
    if metrics.listen and not metrics.public and not is_loopback(address_of(metrics.listen)[0]):
        got, expected = repr(metrics.listen), "an address of this machine only, such as 127.0.0.1"
        advice = "If other machines really are to read it, write public = true beside it"
        raise ArgumentError(Problem(where, "metrics.listen", got, expected, advice))
