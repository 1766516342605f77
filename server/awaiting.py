"""Waiting in a handshake until enough sites are there, or until no more are to be expected."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cardionets_core.errors import IncompleteError
from server.attendance import DESCRIBE_S
from server.mail import pause_s
from server.node_names import names_of
from server.refusals import in_words, too_few

if TYPE_CHECKING:
    from server.exchange import Run


def await_sites(run: Run, *, known: list[str], started: float) -> None:
    """Greet nodes until the sites are there that the run can begin or go on with.

    Args:
        known: sites that the run knew before its server was restarted.

    Raises:
        IncompleteError: too few came.
    """
    attendance, config = run.attendance, run.config
    told: list[str] = []
    while True:
        elapsed = attendance.clock() - started
        attendance.look()
        attendance.greet()
        attendance.hear()
        there = len(run.nodes)
        missing = [site for site in known if attendance.place(site) is None]
        if there >= config.min_sites:
            if known and (not missing or elapsed >= _patience_s(run)):
                break
            if not known and not attendance.unanswered():
                break
        elif _hopeless(run, elapsed):
            raise _too_few(run, missing)
        awaited = missing or _others(config.min_sites - len(attendance.online))
        if awaited != told:
            run.waiting(awaited)
            told = awaited
        attendance.sleep(pause_s(attendance.clock() - started))
    if told:
        run.waiting([])


def _patience_s(run: Run) -> float:
    """Return how long a restarted server waits for the sites that it knew.

    A node that is online and has not answered may still be at the task of the server before: a
    SuperNode hands out one message at a time. It is given what that task was given.
    """
    config = run.config
    if not run.attendance.unanswered():
        return config.rejoin_s
    deadlines = (config.stage[n].deadline_s for n in config.stages if n in config.stage)
    return max(config.rejoin_s, *deadlines, 0.0)


def _hopeless(run: Run, elapsed: float) -> bool:
    """Return whether no further site is to be expected."""
    config, attendance = run.config, run.attendance
    if attendance.unanswered():
        return elapsed >= max(config.wait_s + DESCRIBE_S, _patience_s(run))
    enough_nodes = len(attendance.online) >= config.min_sites
    return enough_nodes or elapsed >= max(config.wait_s, config.rejoin_s if run.nodes else 0.0)


def _others(count: int) -> list[str]:
    return [f"{count} more"] if count > 0 else []


def _too_few(run: Run, missing: list[str]) -> IncompleteError:
    config, attendance = run.config, run.attendance
    online = len(attendance.online)
    # Asked like the others, and silent for as long as they were given.
    silent = set(attendance.online) - {*run.nodes.values(), *attendance.refused}
    codes = {**dict.fromkeys(silent, "late"), **attendance.refused}
    names = names_of(run, codes)
    reasons = {names.get(node) or attendance.label(node): why for node, why in codes.items()}
    if online < config.min_sites:
        refused = f" (refused: {in_words(reasons)})" if reasons else ""
        return IncompleteError(
            f"{online} of {config.min_sites} sites are online after {config.wait_s:.0f} s"
            f"{refused}; start the missing ones (`cardionets-site start`), or submit a run with a "
            "lower min_sites.",
            missing,
            refused=reasons,
        )
    return too_few(
        f"handshake: {len(run.nodes)} of {config.min_sites} sites answered "
        f"(refused: {in_words(reasons)}).",
        reasons,
        private=config.privacy.is_on,
        lacking=config.min_sites - len(run.nodes),
        missing={*missing, *names.values()},
        otherwise="Look into the logs of the missing sites, or submit a run with a lower "
        "min_sites.",
    )
