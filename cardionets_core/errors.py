"""Everything that CardioNets raises on purpose.

    CardioNetsError
    |-- ConfigError      a run, site or command-line setting is wrong
    |-- DataError        a file, record or table of the hospital cannot be used
    |-- WireError        a message between server and site is not what it should be
    |-- CheckpointError  a checkpoint is missing, torn or of another run
    |-- PrivacyError     a privacy budget, ledger or plan does not allow what is asked
    |-- EngineError      Flower, a port or a process did not do its part
    |-- RunError         a run could not go on (every reply refused)
    |   `-- IncompleteError  because sites were missing: which ones
    `-- SiteError        what a site tells the coordinator: a code, never a text

Every message names the thing, the cause and the next step. None may hold a patient identifier;
a message may hold a path, so only the code of an error ever crosses the wall of a site (SiteError).
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class CardioNetsError(Exception):
    """Root of all errors that a user can cause; its text is meant to be shown as it is."""


class ConfigError(CardioNetsError):
    """A setting is unknown, missing or out of range."""


class DataError(CardioNetsError):
    """A file, record or table cannot be used."""


class WireError(CardioNetsError):
    """A message does not follow the wire protocol (docs/wire_protocol.md)."""


class CheckpointError(CardioNetsError):
    """A checkpoint is missing, torn, or belongs to another configuration."""


class PrivacyError(CardioNetsError):
    """Differential privacy forbids it; the text stays at the site, only the code leaves.

    Args:
        code: `privacy_plan`, `privacy_spent` or `privacy_ledger`.
        message: thing, cause and next step, for the site's own log and screen.
    """

    def __init__(self, code: str, message: str) -> None:
        if code not in SITE_ERROR_CODES:
            raise ValueError(f"unknown site error code {code!r}")
        super().__init__(message)
        self.code = code


class EngineError(CardioNetsError):
    """A Flower process, a port or the machine did not do its part."""


class RunError(CardioNetsError):
    """The run cannot go on; the message names the stage and the sites."""


class IncompleteError(RunError):
    """Too few sites took part; the run ends INCOMPLETE and can be resumed.

    Attributes:
        sites: names of the sites that are missing, sorted; empty where none was ever known.
        resume_helps: whether the run may get further if it is only resumed; where not, the message
            says what has to change.
        refused: site -> code, of the round that was not done.
    """

    def __init__(
        self,
        message: str,
        sites: Iterable[str] = (),
        *,
        resume_helps: bool = True,
        refused: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.sites = tuple(sorted(set(sites)))
        self.resume_helps = resume_helps
        self.refused = dict(refused or {})


class SiteError(CardioNetsError):
    """What leaves a site when it cannot serve a task: a code and nothing else.

    Args:
        code: one of `SITE_ERROR_CODES`.
    """

    def __init__(self, code: str) -> None:
        if code not in SITE_ERROR_CODES:
            raise ValueError(f"unknown site error code {code!r}")
        super().__init__(code)
        self.code = code


SITE_ERROR_CODES: dict[str, str] = {
    "config": "the site's own configuration is wrong",
    "data": "the site's data cannot be read",
    "refused_stage": "the site's policy does not allow this stage",
    "refused_cohort": "the site has fewer patients than its policy or the task asks for",
    "refused_version": "the site runs another version than the coordinator",
    "refused_task": "the task asks for something that the site's policy does not allow",
    "wire": "the task could not be understood",
    "missing_parts": "the site does not hold a frozen part that the task builds on",
    "budget": "the site's time for the round ended before its training",
    "missing_memory": "the site has lost what it remembered of this run",
    "privacy_plan": "the site's privacy policy does not allow what the task asks",
    "privacy_spent": "the site's privacy budget does not cover the task",
    "privacy_ledger": "the site's privacy ledger is missing, changed or behind",
    "secure_aggregation": "the task breaks the site's rules of secure sums, or its keys are gone",
    "diverged": "the loss or the weights were not finite",
    "internal": "the site failed; the site's own log says why",
}
"""Code -> what a coordinator may know about it."""

UPDATE_REFUSALS: dict[str, str] = {
    "late": "none came before the deadline",
    "lost": "the site was lost, and not back in time",
    "unreadable": "it could not be read",
    "wrong_site": "it carried the name of another site",
    "wrong_run": "it was for another run",
    "wrong_stage": "it was for another stage",
    "wrong_round": "it was for another round",
    "num_examples": "it counted no training study, or more than the site had declared",
    "steps": "it claimed other numbers of local steps than its studies take",
    "privacy": "it did not say what privacy it cost, or said more than a private answer may",
    "parts": "it held other parts than the task trains",
    "keys": "a tensor was missing or one too many",
    "shape": "a tensor had another shape or dtype",
    "not_finite": "its numbers were not finite",
    "too_large": "a number was too large to be added exactly",
    "duplicate": "the site had answered this task already",
    "replay": "the same update had been used before",
    "max_norm": "it was larger than the run allows",
    "norm": "it was far larger than what training moved so far",
    "sums": "its sums could not be used",
    "unusable": "it could not be added up",
}
"""Code -> why the coordinator did not use a site's answer; the site is told with its next task."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` for the known word closest to `word`, or an empty string."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
