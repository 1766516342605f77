"""The source of membership, labels and noise: its laws, and that nobody can repeat it."""

from __future__ import annotations

import ast
import copy
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

import cardionets_core.privacy as package
from cardionets_core.privacy.rng import PrivacyRandom, register_fake, require_production

SEEDED = {"manual_seed", "randperm", "multinomial", "bernoulli_", "normal_", "rand", "randn"}
"""Names of PyTorch's and NumPy's streams, which a seed repeats."""

ALLOWED = {
    "model_randomness.py": "masks and times; they hide nothing, and are conditioned on",
    "audit.py": "guesses of an attacker, not what protects",
    "membership.py": "likewise",
    "copies.py": "likewise",
    "intervals.py": "intervals around what was released",
    "expected_errors.py": "made-up patients of a plan: no records are looked at",
    "objectives.py": "which public records are negatives",
    "bank.py": "likewise",
}
"""Modules that may use them, each with its reason."""


CHANCE = 1e-11
"""These draws cannot be seeded: each bound is one that chance passes less often than 1 in 10^9."""


def test_bernoulli_has_its_rate_and_no_memory():
    rng = PrivacyRandom()
    drawn = np.stack([rng.bernoulli(400, 0.0625) for _ in range(2000)])
    assert stats.binomtest(int(drawn.sum()), drawn.size, 0.0625).pvalue > CHANCE
    assert abs(np.corrcoef(drawn[:-1].ravel(), drawn[1:].ravel())[0, 1]) < 0.01
    # the size of a Poisson sample varies: sd sqrt(400 x 0.0625 x 0.9375) = 4.84
    assert drawn.sum(1).std() == pytest.approx(4.84, rel=0.1)


def test_bernoulli_at_its_ends():
    rng = PrivacyRandom()
    assert rng.bernoulli(1000, 1.0).all() and not rng.bernoulli(1000, 0.0).any()
    assert rng.bernoulli(0, 0.5).shape == (0,)
    with pytest.raises(ValueError, match="probability"):
        rng.bernoulli(1, 1.5)


def test_labels_are_uniform_and_independent():
    labels = PrivacyRandom().integers(40_000, 8)
    assert labels.dtype == np.int64
    assert stats.chisquare(np.bincount(labels, minlength=8)).pvalue > CHANCE
    # Pairs that do not overlap: the counts of those that do have another law.
    pairs = np.bincount(labels[::2] * 8 + labels[1::2], minlength=64)
    assert stats.chisquare(pairs).pvalue > CHANCE


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (7, 5), (2**20 + 3,)])
def test_normals_have_the_shape_that_is_asked(shape):
    drawn = PrivacyRandom().normal(shape, 1.0)
    assert drawn.shape == shape and drawn.dtype == np.float64 and np.isfinite(drawn).all()


def test_normals_are_normal():
    drawn = PrivacyRandom().normal((200_000,), 2.5)
    assert drawn.std() == pytest.approx(2.5, rel=0.02)
    assert stats.kstest(drawn[:20_000] / 2.5, "norm").pvalue > CHANCE
    halves = drawn[:100_000], drawn[100_000:]
    assert abs(np.corrcoef(*halves)[0, 1]) < 0.02  # cosine and sine of the same angles
    assert stats.kurtosis(drawn) == pytest.approx(0.0, abs=0.1)


def test_blocks_of_a_large_draw_are_not_alike():
    drawn = PrivacyRandom().normal((2**20 + 2**16,), 1.0)
    assert abs(np.corrcoef(drawn[: 2**16], drawn[2**20 :])[0, 1]) < 0.027


def streams(make):
    """Return normals of two sources, made after the same seeding of all that can be seeded."""
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        found.append(make().normal((20_000,), 1.0))
    return found


def test_no_seed_makes_it_draw_the_same():
    first, second = streams(PrivacyRandom)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05


def test_the_test_above_sees_a_source_that_can_be_seeded():
    class Seeded:
        def normal(self, shape, std):
            return torch.randn(shape).numpy() * std

    first, second = streams(Seeded)
    assert np.corrcoef(first, second)[0, 1] > 0.99


def test_drawing_leaves_the_global_streams_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    PrivacyRandom().normal((100,), 1.0)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_cannot_be_duplicated(duplicate):
    with pytest.raises(TypeError, match="never copied"):
        duplicate(PrivacyRandom())


def test_it_takes_no_seed_and_no_other_method():
    with pytest.raises(TypeError):
        PrivacyRandom(0)
    with pytest.raises(AttributeError):
        PrivacyRandom().normal = lambda shape, std: np.zeros(shape)


def test_a_child_process_draws_other_numbers():
    rng = PrivacyRandom()
    rng.normal((1,), 1.0)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, struct.pack("4d", *rng.normal((4,), 1.0)))
        os._exit(0)
    os.waitpid(child, 0)
    theirs = struct.unpack("4d", os.read(read, 32))
    ours = rng.normal((4,), 1.0)
    os.close(read)
    os.close(write)
    assert not set(ours.tolist()) & set(theirs)


def test_a_child_forgets_its_parents_key(monkeypatch):
    """Without the new key the test above would see the same numbers: here the fork is unseen."""
    rng = PrivacyRandom()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    before = rng._stream
    rng.normal((1,), 1.0)
    assert rng._stream is not before


def test_production_takes_nothing_else(monkeypatch):
    class Other(PrivacyRandom):
        __slots__ = ()

    require_production(PrivacyRandom())
    for rng in (Other(), np.random.default_rng(0)):
        with pytest.raises(TypeError, match=r"Pass PrivacyRandom\(\)"):
            require_production(rng)
    monkeypatch.delenv("CARDIONETS_FAKE_RANDOMNESS", raising=False)
    with pytest.raises(TypeError, match="may not replace"):
        register_fake(Other)


def test_a_fake_is_taken_in_tests_only(fake_random, monkeypatch):
    require_production(fake_random())
    monkeypatch.delenv("PYTEST_VERSION")
    with pytest.raises(TypeError, match="FakeRandom"):
        require_production(fake_random())


def test_a_fake_must_be_registered(monkeypatch):
    monkeypatch.setenv("CARDIONETS_FAKE_RANDOMNESS", "1")
    with pytest.raises(TypeError, match="Generator"):
        require_production(np.random.default_rng(0))


def seeded_calls(path):
    """Return the uses of a stream that a seed repeats, in one module."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            if text.startswith(("np.random", "numpy.random")) or text == "torch.normal":
                found.append(text)
            elif node.attr in SEEDED:
                found.append(text)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [a.name for a in node.names] + [getattr(node, "module", "") or ""]
            found += [n for n in names if n in ("random", "numpy.random")]
    return found


def test_privacy_rests_on_no_stream_that_can_be_seeded():
    wrong = {
        path.name: calls
        for path in sorted(Path(package.__file__).parent.glob("*.py"))
        if path.name not in ALLOWED and (calls := seeded_calls(path))
    }
    assert not wrong, wrong


def test_the_test_above_sees_a_seed(tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text("import torch\nimport random\ng = torch.Generator().manual_seed(0)\n")
    assert seeded_calls(path) == ["random", "torch.Generator().manual_seed"]
    assert seeded_calls(Path(package.__file__).parent / "model_randomness.py")
