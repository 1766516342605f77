"""What a server opens that tells each site another list of who came; which thresholds stop it.

To open the sum of m sites of a roster of n, threshold t, a server needs t shares of the seed of
each of them, and t of the mask key of every other site whose masks are in the sum. Each site's
masks are with at least t sites, itself included: so the masks of p >= t sites are in it, k = p - m
of them by their keys alone, and k t shares of keys are needed. A site gives one share of each site:
of the seed where the list that it was told says that the site came, which it says of at least t
sites, itself included; else of the key. So it gives at most

    p - t shares of keys    where it is one of the m, whose masks are with p sites;
    n - t                   else; and none of its own key, nor of keys that are not needed.

Where k t shares are more than all of them together give, no lists open the sum; the rest is opened,
as a search through all lists finds for n <= 8 (tests/.../privacy/test_secure_thresholds.py). Sites
that were told another roster or threshold do not help: they open no share made under this one.
"""

from __future__ import annotations

from cardionets_core.secure_config import FEWEST


def fewest_opened(sites: int, threshold: int) -> int:
    """Return the fewest sites whose sum a server can open by lists that differ, keys being genuine.

    Args:
        sites: n, in the roster.
        threshold: t, above half of them.
    """
    return next(
        opened
        for opened in range(1, threshold + 1)
        if any(
            _may_open(sites, threshold, opened, masked)
            for masked in range(max(threshold, opened), sites + 1)
        )
    )


def lowest_threshold(sites: int) -> int:
    """Return the lowest threshold among so many sites under which no lists open a single one.

    Where t <= n - 2 it is the lowest with (t - 1) t > (n - 1) (n - t), by the count above with
    m = 1, p = t. Two of 3 are enough, too: where two sites' masks are in a residue, the key of the
    other needs two shares, and only the third site can give one. And so are three of 4: masks of
    three sites take two keys, six shares, and the site itself gives none of them, the others one
    each; masks of four take nine shares, and four are given.
    """
    above_half = range(max(FEWEST, sites // 2 + 1), sites + 1)
    # Among fewer than two sites there is none: the number that no roster of one can reach.
    return next((t for t in above_half if fewest_opened(sites, t) >= FEWEST), FEWEST)


def _may_open(sites: int, threshold: int, opened: int, masked: int) -> bool:
    """Return whether enough shares of keys can be given (m = `opened`, p = `masked`)."""
    keys = masked - opened
    given = (
        opened * min(masked - threshold, keys)
        + keys * min(sites - threshold, max(0, keys - 1))
        + (sites - masked) * min(sites - threshold, keys)
    )
    return keys * threshold <= given
