"""What a person sees of a run: one line per round and per change, and one row of `status`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from cardionets_core.errors import ConfigError, RunError, nearest
from cardionets_core.privacy.ledger import SAME
from cardionets_core.privacy.schedule import Quote
from server.progress import read_progress
from server.status import FAILURES, Queue, Standing, standing, words
from server.status_file import HEARTBEAT_S, read_submission

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from server.status_file import Submission

SILENT_S = 4 * HEARTBEAT_S
"""A server that lives and has given no sign of life for this long is pointed out."""


def follow(
    folder: Path, shown: int, *, queue: Callable[[], Queue], say: Callable[[str], None]
) -> None:
    """Say one line per round and per change of state, until the run has ended.

    Args:
        folder: the run's.
        shown: entries of its progress file that belong to an earlier try.
        queue: who gives the run a server.
        say: prints a line.

    Raises:
        RunError: it ended, and not with COMPLETED.
    """
    said, greeted = "", False
    served = read_submission(folder)
    while True:
        how = standing(folder, time.time(), queue=queue())
        # Read after the look: a run that has ended has written its last word before.
        entries = read_progress(folder)
        handed = read_submission(folder)
        if handed is not None and served is not None and handed.flower_run != served.flower_run:
            say(begun_again(handed))
        served = handed or served
        for entry in entries[shown:]:
            for line in lines_of(entry):
                say(line)
        greeted = greeted or any(entry["event"] == "round" for entry in entries[shown:])
        waits = "" if greeted else waits_for(how)
        if waits and waits != said:
            say(waits)
            said = waits
        shown = len(entries)
        if how.state == "COMPLETED":
            say(_results(folder))
            return
        if how.final:
            raise _ended(folder, how, entries)
        time.sleep(0.5)


def _results(folder: Path) -> str:
    """Return where the results of a complete run lie."""
    report = folder / "report.html"
    drawn = str(report) if report.is_file() else "could not be drawn; this command says why: "
    if not report.is_file():
        drawn += f"cardionets-coordinator report {folder}"
    return (
        f"summary    {folder / 'summary.json'}\nreport     {drawn}\n"
        f"checkpoint {folder / 'checkpoint'}"
    )


def begun_again(submission: Submission) -> str:
    """Return what is said of a run that the coordinator has handed to Flower once more."""
    done = submission.rounds_done
    return (
        "the server of the run has died, or lost Flower; another one goes on after "
        f"{done} {'round' if done == 1 else 'rounds'} (the coordinator's console says when)"
    )


def lines_of(entry: dict[str, Any]) -> list[str]:
    """Return what is printed of an entry of the progress file."""
    if entry["event"] == "waiting":
        return [f"waiting for {', '.join(entry['sites'])}"]
    if entry["event"] != "round":
        return []
    place = f"{entry['stage']} {entry['round']}/{entry['rounds']}"
    line = f"{place}  {entry['seconds']:.1f} s  {', '.join(entry['accepted'])}"
    without = [f"{site} ({code})" for site, code in sorted(entry.get("refused", {}).items())]
    if without:
        line += f"  without {', '.join(without)}"
    return [line, *quote_lines(entry), *entry.get("news", [])]


def quote_lines(entry: Mapping[str, Any]) -> list[str]:
    """Return what is printed of the privacy quotes in a handshake's record."""
    lines = [_quote_line(site, quote) for site, quote in entry.get("quotes", {}).items()]
    return [*lines, *(f"WARNING {text}" for text in entry.get("warnings", ()))]


def _quote_line(site: str, quote: Mapping[str, Any]) -> str:
    prv, why = quote["epsilon_prv"], quote.get("no_prv", "")
    cost = Quote(quote["delta"], quote["epsilon_rdp"], prv, why, quote.get("order"))
    line = (
        f"privacy {site}: {quote['patients']:,} patients declared; the schedule costs "
        f"{cost.words()}, at delta {cost.delta:.2g}; {quote['spent']:.2f} counted"
    )
    if not {"budget", "after"} <= quote.keys():  # not told, or a record of an earlier version
        return line
    line += f" of {quote['budget']:g}, {quote['left']:.2f} not yet used"
    return f"{line}. {_verdict(quote, resumed=quote.get('resumed', False))}"


def _verdict(quote: Mapping[str, Any], *, resumed: bool) -> str:
    """Return whether what is left of a schedule fits into what is left of a budget.

    Of a run that goes on the most is known, as a round that a site has answered before costs it
    nothing more.
    """
    after, fits = f"{quote['after']:.2f}", quote["after"] <= quote["budget"] * SAME
    if resumed and fits:
        return f"What is left of it fits: at most {after} will be counted at its end"
    if resumed:
        return (
            f"What is left of it may not fit (up to {after} counted at its end): a round that "
            "does not is refused"
        )
    if quote["epsilon_rdp"] > quote["budget"] * SAME:
        return "It costs more than the site's whole budget: rounds will be refused"
    if fits:
        return f"It fits: {after} will be counted at its end, if nothing else is charged meanwhile"
    return f"It does not fit ({after} will be counted at its end): a round that does not is refused"


def waits_for(how: Standing) -> str:
    """Return what a run waits for that has not greeted its sites yet; empty where it is told."""
    if how.state == "QUEUED":
        return "waiting for the server of the run to start"
    if how.state == "RUNNING":
        return "waiting for the sites to say what they have (handshake)"
    return ""


def _ended(folder: Path, how: Standing, entries: Sequence[dict[str, Any]]) -> RunError:
    reason = entries[-1].get("reason", "") if entries else ""
    why = reason or FAILURES.get(how.code, "too few sites took part")
    again = f"Go on with it: cardionets-coordinator run --resume {folder.name}."
    if how.code == "server_gone":
        again = "It goes on by itself when the coordinator is started."
    if not how.resume_helps:
        again = ""  # the reason says what helps, and when to resume
    return RunError(f"the run is {words(how)}: {why.rstrip('.')}. {again}".rstrip())


def row_of(folder: Path, how: Standing) -> list[str]:
    """Return a run as a row: name, state, stage, last round, codes, notes.

    The codes are of that round; of a run that ended for want of sites, of the round after it.
    """
    rounds = [e for e in read_progress(folder) if e["event"] == "round"]
    last: dict[str, Any] = rounds[-1] if rounds else {}
    notes = [how.tracking] if how.tracking else []
    if how.silent_s > SILENT_S:
        notes.append(f"no sign of life for {how.silent_s:.0f} s")
    refused = how.refused or last.get("refused", {})
    return [
        folder.name,
        words(how),
        how.stage or "-",
        f"{how.round}/{how.rounds}" if how.stage else "-",
        by_code(refused) or "-",
        "; ".join([*notes, *last.get("news", [])]) or "-",
    ]


def by_code(refused: Mapping[str, str]) -> str:
    """Return who refused, code by code: `late: hill; privacy_spent: north, st-barts`."""
    sites: dict[str, list[str]] = {}
    for site, code in sorted(refused.items()):
        sites.setdefault(code, []).append(site)
    return "; ".join(f"{code}: {', '.join(names)}" for code, names in sorted(sites.items()))


def require_run(output: Path, name: str) -> Path:
    """Return the folder of a run.

    Raises:
        ConfigError: there is none of that name.
    """
    folder = output.resolve() / name
    if not name or not (folder / "config.json").is_file():
        known = [path.parent.name for path in output.glob("*/config.json")]
        raise ConfigError(
            f"there is no run {name!r} in {output}{nearest(name, known)}; "
            "`cardionets-coordinator status` lists them."
        )
    return folder
