"""Retrieval: does a patient's ECG find the same patient's CMR among a site's held-out patients?

The gallery is the site's own: no embedding leaves it. Hits and ranks are counts, so sites add up;
the chance level is summed over the same galleries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cardionets_core.evaluation.intervals import wilson
from cardionets_core.evaluation.metrics import Estimate, estimate
from cardionets_core.evaluation.sums import Floats, Sums, ratio, section, under

if TYPE_CHECKING:
    from collections.abc import Mapping

DEPTHS = (1, 5, 10)
"""The k of R@k."""

DIRECTIONS = ("ecg_to_cmr", "cmr_to_ecg")

MAX_RANK = 1024
"""Ranks above this share the last bin of the rank histogram."""


def retrieval_sums(ecg: Floats, cmr: Floats, weights: Floats) -> Sums:
    """Sum hits and ranks in both directions.

    Args:
        ecg: [N, E] unit vectors of N patients, one study each.
        cmr: [N, E] unit vectors of the same patients.
        weights: [1 + R, N].
    """
    similarity = ecg @ cmr.T
    sums: Sums = {}
    for name, table in zip(DIRECTIONS, (similarity, similarity.T), strict=True):
        sums |= under(name, _rank_sums(match_ranks(table), weights))
    return sums


def match_ranks(similarity: Floats) -> Floats:
    """Return the rank [N], from 1, of each row's own column; a tie counts against it.

    So a collapsed encoder, for which all candidates look alike, ranks last and not first.
    """
    own = np.diagonal(similarity)[:, None]
    return np.asarray((similarity >= own).sum(axis=1), dtype=np.float64)


def _rank_sums(ranks: Floats, weights: Floats) -> Sums:
    size = len(ranks)
    hits = (ranks[:, None] <= np.array(DEPTHS)).astype(np.float64)
    places = np.arange(1, MAX_RANK + 1)
    return {
        "queries": weights.sum(axis=1),
        "hits": weights @ hits,
        "chance": size * np.minimum(np.array(DEPTHS) / size, 1.0),
        "ranks": np.bincount(np.minimum(ranks, MAX_RANK).astype(np.int64) - 1, minlength=MAX_RANK)
        .astype(np.float64),
        "chance_ranks": np.where(places <= size, 1.0, 0.0) + (places == MAX_RANK)
        * max(0, size - MAX_RANK),
        "candidates": np.array([float(size * size)]),
    }  # fmt: skip


def summarise_retrieval(sums: Mapping[str, Floats]) -> dict[str, Any]:
    """Return R@k with intervals, chance, median rank and gallery size, per direction."""
    report: dict[str, Any] = {}
    for name in DIRECTIONS:
        part = section(sums, name)
        if not part or not part["queries"][0] > 0:
            continue
        queries = part["queries"]
        recall = estimate(ratio(part["hits"], queries[:, None]))
        if len(queries) == 1:
            recall = Estimate(recall.value, *wilson(recall.value, queries[:, None][0]))
        report[name] = {
            "queries": int(queries[0]),
            "mean_candidates": float(part["candidates"][0] / queries[0]),
            "median_rank": histogram_median(part["ranks"]),
            "chance_median_rank": histogram_median(part["chance_ranks"]),
            "recall": {f"r_at_{k}": _recall(recall, part, i) for i, k in enumerate(DEPTHS)},
        }
    return report


def _recall(recall: Estimate, part: Mapping[str, Floats], place: int) -> dict[str, float]:
    return {
        "value": float(recall.value[place]),
        "low": float(recall.low[place]),
        "high": float(recall.high[place]),
        "chance": float(part["chance"][place] / part["queries"][0]),
    }


def histogram_median(counts: Floats) -> float:
    """Return the median of the ranks 1, 2, ... that occurred `counts` times (midpoint of two)."""
    reached = np.cumsum(counts)
    total = reached[-1]
    lower = np.searchsorted(reached, total / 2, side="left")
    upper = np.searchsorted(reached, total / 2, side="right")
    return float((lower + min(int(upper), len(counts) - 1)) / 2 + 1)
