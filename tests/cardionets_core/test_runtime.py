"""Seeds, devices, versions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from cardionets_core.runtime import autocast, derive_seed, pick_device, set_up, versions


def test_a_seed_is_the_same_in_every_process():
    code = "from cardionets_core.runtime import derive_seed; print(derive_seed(1, 'a', 2))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "99"},
        cwd=Path(__file__).parents[2],
    )
    assert int(done.stdout) == derive_seed(1, "a", 2)


def test_the_seed_of_these_words_is_this_number():
    import hashlib

    first = hashlib.sha256(b"1\x1fa\x1f2").digest()[:8]
    assert derive_seed(1, "a", 2) == int.from_bytes(first, "big") // 2


@given(st.lists(st.integers() | st.text(max_size=5), min_size=1, max_size=4))
def test_seeds_are_whole_numbers_that_torch_and_numpy_take(words):
    assert 0 <= derive_seed(*words) < 2**63
    torch.Generator().manual_seed(derive_seed(*words))


def test_every_word_and_its_place_counts():
    seeds = {derive_seed(*w) for w in ((1, "a"), ("a", 1), (1, "b"), (2, "a"), (1,), ("1a",))}
    assert len(seeds) == 6


def test_set_up_fixes_threads_and_algorithms(torch_as_it_was):
    set_up(2)
    assert torch.get_num_threads() == 2
    assert torch.are_deterministic_algorithms_enabled()


def test_devices(monkeypatch):
    assert pick_device("cpu").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto").type == "cuda"


def test_autocast_does_nothing_on_the_cpu():
    layer = torch.nn.Linear(2, 2)
    with autocast(torch.device("cpu")):
        assert layer(torch.ones(1, 2)).dtype == torch.float32


def test_versions_name_what_a_result_depends_on():
    found = versions()
    assert {"python", "cardionets", "flwr", "torch", "numpy"} <= set(found)
    assert found["torch"].startswith("2.") and found["flwr"] == "1.41.0"
