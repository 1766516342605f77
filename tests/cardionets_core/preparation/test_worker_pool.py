"""Processes that die, and how much is under way at once."""

import os
import signal
from pathlib import Path

import pytest

from cardionets_core.preparation.pool import WorkerPool


def act(item):
    if item == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == "exit":
        os._exit(9)
    if isinstance(item, tuple):  # dies on the first try, as when memory was short
        mark = Path(item[0])
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return f"done {item}"


def crashed(item):
    return f"crashed {item}"


def start():
    os.environ["OF_THE_WORKER"] = "1"


def test_a_worker_that_dies_costs_its_item(tmp_path):
    once = (str(tmp_path / "tried"),)
    items = [once, *range(1, 6), "segfault", 7, 8, 9, "exit", *range(10, 20)]
    pool = WorkerPool(act, crashed, workers=2, start=start)
    results = list(pool.run(items))
    expected = [f"done {i}" for i in items]
    expected[6], expected[10] = "crashed segfault", "crashed exit"
    assert results == expected
    assert "OF_THE_WORKER" not in os.environ


def refuse(item):
    raise ValueError("a mistake of ours is not hidden")


def test_an_exception_comes_back():
    pool = WorkerPool(refuse, crashed, workers=1, start=start)
    with pytest.raises(ValueError, match="a mistake of ours"):
        list(pool.run([1]))


def test_no_more_is_taken_than_can_be_under_way():
    taken = []

    def items():
        for k in range(100):
            taken.append(k)
            yield k

    pool = WorkerPool(act, crashed, workers=1, start=start)
    results = pool.run(items())
    next(results)
    assert len(taken) <= 8
    results.close()
