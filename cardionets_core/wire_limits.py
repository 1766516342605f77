"""What the words and numbers of an update may be: bounds that no honest site comes near.

What passes here is kept for as long as the run: in the checkpoint's JSON, in names of files, in
logs and reports. So a word is a word, and a number stays far from overflow when it is weighed.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from cardionets_core.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

LONGEST_NAME = 64
"""Characters of the name of a site, metric, count or version."""

LONGEST_TEXT = 100
"""Characters of a version."""

MOST_NAMED = 1000
"""Metrics, counts or versions of one update; a site sends some dozens."""

LARGEST_COUNT = 2**40
"""More than any site can count; keeps sums of counts far from overflow."""

LARGEST_METRIC = 1e30
"""Times LARGEST_COUNT and thousands of sites it is far below the largest float64, 1.8e308."""

METRIC_PREFIXES = ("train_", "validation_", "steps")
"""Metrics that may leave a site, and that a server takes; every other name stays."""

LEDGER_HEAD = re.compile("[0-9a-f]{64}")
"""The hash of the newest entry of a privacy ledger."""

LARGEST_ORDER = 512.0
"""Of the Renyi order of a privacy ledger: what a charge costs there is summed in as many terms."""

MODALITIES = frozenset({"ecg", "cine", "pairs", "phenotypes", "diseases"})
"""What a site can serve."""


def is_site_name(name: str) -> bool:
    """Return whether a site can be called this: it becomes a part of file names and reports."""
    return 0 < len(name) <= LONGEST_NAME and all(c.isalnum() or c in "-_" for c in name)


def check_site_name(name: str) -> None:
    """Refuse a name that no site's YAML can hold.

    Raises:
        WireError: it is none; the text does not repeat it, for it may hold anything.
    """
    if not is_site_name(name):
        raise WireError("the update's site is no name of letters, digits, '-' or '_'")


def check_metrics(metrics: Mapping[str, float]) -> None:
    """Refuse metrics that a site's policy would not let out, or that cannot be weighed.

    Raises:
        WireError: too many, another name, or a number that is not finite or beyond LARGEST_METRIC.
    """
    _check_names(metrics, "metrics")
    if not all(name.startswith(METRIC_PREFIXES) for name in metrics):
        raise WireError("the update holds a metric that no site lets out")
    if not all(abs(v) <= LARGEST_METRIC for v in metrics.values()):  # NaN is not, either
        raise WireError("the update holds a metric that is not finite, or beyond any loss")


def check_counts(counts: Mapping[str, int]) -> None:
    """Refuse counts below 0, beyond any hospital, or too many of them.

    Raises:
        WireError: see above.
    """
    _check_names(counts, "counts")
    check_whole(counts.values())


def check_whole(numbers: Collection[int]) -> None:
    """Refuse numbers of things below 0 or beyond any hospital.

    Raises:
        WireError: there is one.
    """
    if not all(0 <= n <= LARGEST_COUNT for n in numbers):
        raise WireError("the update holds a count below 0 or beyond any hospital")


def check_versions(versions: Mapping[str, str]) -> None:
    """Refuse versions that are no short plain text.

    Raises:
        WireError: see above.
    """
    _check_names(versions, "versions")
    if not all(len(v) <= LONGEST_TEXT and _is_plain(v) for v in versions.values()):
        raise WireError("the update holds a version that is no short plain text")


def check_modalities(modalities: Collection[str]) -> None:
    """Refuse what no site can serve, and a word that is said twice.

    Raises:
        WireError: see above.
    """
    if len(set(modalities)) != len(modalities) or not set(modalities) <= MODALITIES:
        raise WireError(f"the update's modalities are not of {', '.join(sorted(MODALITIES))}")


def check_privacy(
    *,
    epsilon: float,
    delta: float,
    head: str,
    entries: int,
    budget: float,
    order: float,
    promised: float,
    raises: int,
) -> None:
    """Refuse what no privacy ledger says; the head travels back to the site with its next task.

    Raises:
        WireError: a number out of range, or a head that is no SHA-256.
    """
    numbers = all(math.isfinite(v) and v >= 0 for v in (epsilon, budget, promised))
    numbers = numbers and 0 < delta < 1 and 1 < order <= LARGEST_ORDER and 0 <= raises < entries
    if not numbers or not 1 <= entries <= LARGEST_COUNT or not LEDGER_HEAD.fullmatch(head):
        raise WireError("the update says of its privacy ledger what no ledger can say")


def _check_names(named: Collection[str], what: str) -> None:
    if len(named) > MOST_NAMED:
        raise WireError(f"the update holds more than {MOST_NAMED} {what}")
    if not all(0 < len(name) <= LONGEST_NAME and _is_word(name) for name in named):
        raise WireError(f"the update's {what} have a name that is no short plain word")


def _is_word(name: str) -> bool:
    """Return whether a name is of ASCII letters, digits, `_`, `-`, `.` and `/`."""
    return name.isascii() and all(c.isalnum() or c in "_-./" for c in name)


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()
