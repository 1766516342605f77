"""What false lists of who came open: the count against a search through all lists."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import pytest

from cardionets_core.privacy.secure_aggregation.protocol import ProtocolError, Secrets, Terms
from cardionets_core.privacy.secure_aggregation.thresholds import fewest_opened, lowest_threshold
from cardionets_core.secure_config import SecureAggregationConfig

PAGE = Path(__file__).parents[3] / "docs" / "secure_aggregation.md"


def found(sites, threshold):
    """Return the fewest sites that any lists open, by search."""
    return next(
        opened
        for opened in range(1, threshold + 1)
        for masked in range(max(threshold, opened), sites + 1)
        if lists_exist(sites, threshold, opened, masked)
    )


def lists_exist(sites, threshold, opened, masked):
    """Try all lists: of sites 0..opened-1 the seed is needed, of those up to `masked` the key."""
    reached = {(0,) * masked}
    for site in range(sites):
        gifts = best(answers(site, sites, threshold, opened, masked))
        later = sites - 1 - site
        added = {
            tuple(min(threshold, a + b) for a, b in zip(held, gift, strict=True))
            for held in reached
            for gift in gifts
        }
        reached = {held for held in added if min(held) + later >= threshold}
    return bool(reached)


def answers(site, sites, threshold, opened, masked):
    """Return what one site can be made to give: 0 or 1 share of what is needed of each site."""
    there = range(masked) if site < opened else range(sites)
    others = [other for other in there if other != site]
    for size in range(threshold - 1, len(others) + 1):
        for told in combinations(others, size):
            came = {site, *told}
            yield tuple(int((other in came) == (other < opened)) for other in range(masked))


def best(gifts):
    """Leave out what another answer gives more than."""
    gifts = set(gifts)
    return [
        g
        for g in gifts
        if not any(g != h and all(a <= b for a, b in zip(g, h, strict=True)) for h in gifts)
    ]


@pytest.mark.parametrize("sites", range(2, 9))
def test_the_count_finds_what_a_search_through_all_lists_finds(sites):
    for threshold in range(max(2, sites // 2 + 1), sites + 1):
        assert fewest_opened(sites, threshold) == found(sites, threshold)


def test_the_lowest_threshold_is_that_of_the_inequality():
    """By hand: 2 of 3 and 3 of 4 are safe; else (t - 1) t > (n - 1) (n - t), or one less than n."""
    assert [lowest_threshold(n) for n in (1, 2, 3, 4, 5, 6, 7, 10)] == [2, 2, 2, 3, 4, 4, 5, 7]
    for n in range(2, 60):
        for t in range(max(2, n // 2 + 1), n + 1):
            refused = t <= n - 2 and (t - 1) * t <= (n - 1) * (n - t)
            assert (t < lowest_threshold(n)) == refused


def test_the_threshold_of_no_plan_is_never_too_low():
    for sites in range(2, 200):
        assert SecureAggregationConfig().threshold_for(sites) >= lowest_threshold(sites)


@pytest.mark.parametrize("sites", range(2, 8))
def test_terms_refuse_what_is_lower_and_say_the_lowest(sites):
    least = lowest_threshold(sites)
    terms = Terms("s", least, {str(i): Secrets().public for i in range(sites)})
    terms.check()
    with pytest.raises(ProtocolError, match=f"among {sites} sites; {least} or more"):
        Terms("s", least - 1, terms.roster).check()


def test_the_page_says_what_can_be_opened():
    rows = re.findall(r"^\| (\d+) \| ((?:\d+ opens \d+(?:, )?)+) \|$", PAGE.read_text(), re.M)
    assert len(rows) >= 5
    for sites, told in rows:
        for threshold, opened in re.findall(r"(\d+) opens (\d+)", told):
            assert fewest_opened(int(sites), int(threshold)) == int(opened)
