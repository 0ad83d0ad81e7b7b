"""One thing that a doctor has found."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad it is."""

    PROBLEM = "problem"
    """Messages wait in vain or may be lost to view: the exit code is 1."""
    WARNING = "warning"
    """Worth a look, before it becomes one."""
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, and what to do."""

    severity: Severity
    what: str
    remedy: str = ""


def problem(what: str, remedy: str) -> Finding:
    """Something that must be put right."""
    return Finding(Severity.PROBLEM, what, remedy)


def warning(what: str, remedy: str) -> Finding:
    """Something that may have to be."""
    return Finding(Severity.WARNING, what, remedy)


def of_error(error: Exception) -> Finding:
    """What keeps the store from being opened. Errors of ours say at their end what to do."""
    what, found, remedy = str(error).rpartition(". ")
    return problem(f"{what}.", remedy) if found else problem(remedy, "")
