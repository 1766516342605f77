"""A round in which the server learns the sum of the updates and none of them.

Four questions to the sites (cardionets_core/privacy/secure_aggregation/protocol.py). Who does not
answer one is left out of the next; below the threshold the round is tried again with fresh keys.
Once the opening of a sum was asked for, no other sum of this round may be opened (the difference of
the two would be the update of a few): then only the opening is asked again, and a restarted server
repeats the round with the same sites.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from cardionets_core.errors import ConfigError, IncompleteError
from server.gathering import TRIES, Gathered
from server.opened import opened_over, write_opened
from server.refusals import in_words, too_few
from server.secure_session import SecureSession

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cardionets_core.messages import TaskHeader
    from cardionets_core.packing import Groups
    from server.exchange import Run
    from server.state import RunState

log = logging.getLogger("cardionets.server")


def gather_securely(
    run: Run,
    state: RunState,
    head: TaskHeader,
    heads: Mapping[str, TaskHeader],
    *,
    expected: Groups,
) -> Gathered:
    """Ask the sites for a masked sum until enough of them are in it.

    Args:
        run: the engine and the plan.
        state: of the run.
        head: of the whole round.
        heads: site -> header of its task.
        expected: the weights that are trained: names and shapes of the update.

    Raises:
        ConfigError: the plan's threshold would let single sites be told apart.
        IncompleteError: too few sites answered, or opened the sum.
    """
    place = f"{head.stage}/{head.round}"
    before = opened_over(run.folder, place)
    if before:
        log.warning("%s: a sum over %s was asked for before", place, ", ".join(before))
        heads = {site: h for site, h in heads.items() if site in before}
    threshold = _threshold(run, len(heads), repeated=len(before))
    for attempt in range(1, TRIES + 1):
        session = SecureSession(run, state, head, heads, expected=expected, threshold=threshold)
        if session.collect():
            write_opened(run.folder, place, session.came)
            delta = session.opened()
            return session.gathered(delta, attempt)
        log.warning("%s: try %d had too few sites", place, attempt)
    raise too_few(
        f"stage {head.stage}, round {head.round}: {len(session.came)} of {session.needed} sites "
        f"needed for a secure sum are in it (refused: {in_words(session.refused)}).",
        session.refused,
        private=run.config.privacy.is_on,
        # Who answered a question that too few others did is not in a sum, and is not lacking.
        lacking=session.needed - (len(heads) - len(session.refused)),
    )


def _threshold(run: Run, sites: int, *, repeated: int) -> int:
    """Return how many sites a sum must be over."""
    threshold = run.config.secure_aggregation.threshold_for(sites)
    if repeated:
        # The same sites or none: a sum over fewer would be subtracted from the one before.
        threshold = repeated
    if threshold > sites:
        raise IncompleteError(
            f"secure aggregation needs {threshold} sites and {sites} can be asked. Enrol or await "
            "more sites, then resume the run."
        )
    if 2 * threshold <= sites:
        raise ConfigError(
            f"secure_aggregation.threshold is {threshold} and {sites} sites take part: with no "
            "more than half needed, a server could open two sums at once. Set "
            f"secure_aggregation.threshold={sites // 2 + 1} or more, or 0."
        )
    return threshold
