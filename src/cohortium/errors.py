"""Errors in families by cause: what was got, what was expected, what to do next.

The family decides the exit code of the command line: a wrong study, argument or dataset is 2,
a run that failed is 1. No message carries the value of a patient's record.
"""

from __future__ import annotations

from dataclasses import dataclass


class CohortiumError(Exception):
    """Root of every error that Cohortium raises on purpose. `exit_code` is for the command line."""

    exit_code = 1


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with an input, in the parts that a reader needs.

    Attributes:
        where: the file (or `<python>`), without a home folder's path if it can be avoided.
        key: the dotted key in it, such as `plan.local.steps`; empty for the whole file.
        got: what was found there.
        expected: what is accepted.
        advice: what to do.
    """

    where: str
    key: str
    got: str
    expected: str
    advice: str = ""

    def __str__(self) -> str:
        place = f"{self.where}: {self.key}" if self.key else self.where
        text = f"{place}: got {self.got}; expected {self.expected}"
        return f"{text}. {self.advice}" if self.advice else text


class InvalidInputError(CohortiumError):
    """Something that a person wrote or passed is wrong. Carries every `Problem` that was found."""

    exit_code = 2

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class StudyError(InvalidInputError):
    """The study file, or a file of its bundle, is invalid."""


class DataError(InvalidInputError):
    """A dataset is missing or does not fit the study's schema."""


class ModelError(InvalidInputError):
    """The model that a study names cannot be built, or does not fit the task."""


class ArgumentError(InvalidInputError):
    """An argument of a command or of a Python call is invalid."""


class RunFailedError(CohortiumError):
    """A run that started did not reach a consensus model.

    `cause` says what happened, `advice` the next step.
    """

    def __init__(self, cause: str, advice: str = "") -> None:
        super().__init__(f"{cause}. {advice}" if advice else cause)
        self.cause, self.advice = cause, advice


class BelowQuorumError(RunFailedError):
    """Fewer sites took part in a round than the study demands."""


class DivergedError(RunFailedError):
    """Training produced values that are not finite."""


class AcceptanceError(RunFailedError):
    """The consensus model misses the criteria that were agreed before round 1."""


class RefusedError(CohortiumError):
    """The gate or an aggregator refused a value: it is not what the plan declares."""
