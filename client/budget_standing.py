"""Whether a hospital's ledger is the one it must be, as far as is seen without its records."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cardionets_core.errors import PrivacyError
from cardionets_core.privacy import population
from cardionets_core.privacy.ledger import Ledger, ledger_path
from cardionets_core.privacy.ledger_file import check_new
from client.memory import answered_heads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cardionets_core.site_config import SiteConfig


@contextmanager
def to_look_at(site: SiteConfig) -> Iterator[Ledger]:
    """Open a hospital's ledger for a person.

    Raises:
        PrivacyError: as `Ledger.read`; of one that is lost what `budget init` would say.
    """
    is_made(site)
    with Ledger.read(site.privacy) as ledger:
        yield ledger


def is_made(site: SiteConfig) -> bool:
    """Return whether a hospital has made its ledger.

    Raises:
        PrivacyError: it has, and the ledger is gone: says what is left to do.
    """
    path = ledger_path(site.privacy)
    try:
        path.stat()
    except FileNotFoundError:
        check_new(path)
        population.check_marks(path, Path(site.data.cache), Path(site.data.manifest))
        return False
    except OSError:
        return True  # whoever opens it says why not
    return True


def refusals(ledger: Ledger, site: SiteConfig) -> list[str]:
    """Return why every private task is refused; nothing where none is for what is seen here.

    Args:
        ledger: opened to be read.
        site: the hospital.
    """
    found = [ledger.above_recorded()]
    found += [_said(check) for check in (ledger.check_clock, *_of_copies(ledger, site))]
    return [reason for reason in found if reason]


def require_whole(ledger: Ledger, site: SiteConfig) -> None:
    """Refuse to plan with, or to write into, a ledger that was put back, copied, or is in part.

    Raises:
        PrivacyError: `privacy_ledger`.
    """
    for check in _of_copies(ledger, site):
        check()


def _of_copies(ledger: Ledger, site: SiteConfig) -> tuple[Callable[[], object], ...]:
    """Return the checks that a task makes of a ledger's files, but those of its patients."""
    cache, table = Path(site.data.cache), Path(site.data.manifest)
    return (
        lambda: ledger.check_answered(answered_heads(cache / "runs")),
        lambda: population.known(ledger.path),
        lambda: population.check_marks(ledger.path, cache, table, ledger=ledger.terms.ledger),
    )


def _said(check: Callable[[], object]) -> str:
    try:
        check()
    except PrivacyError as refused:
        return str(refused)
    return ""
