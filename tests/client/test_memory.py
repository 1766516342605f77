"""What a site remembers of a run, whatever happens to its disk."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import client.memory
from cardionets_core.errors import DataError, SiteError
from cardionets_core.messages import TrainPlan, Update
from client.memory import ANSWER, CONTROL, LOCAL, LOCK, RESIDUAL, Memory, RunMemory
from tests.task_header import task_header

PLAN = TrainPlan(1, 8, 1e-3, 0.0, 0.0, max_steps=0, progress=0.0)
ROUNDS = 3
ROOT = Path(__file__).parents[2]
"""Of the repository: another process imports this file from there."""


def a_header(number=1, memory="", **changes):
    header = task_header(
        config_hash="c",
        stage="contrastive",
        round=number,
        memory=memory,
        parts={"ecg_encoder": "1" * 64},
        train=PLAN,
    )
    return replace(header, **changes)


def a_memory(value):
    arrays = {
        "w": np.full((2, 3), value, dtype=np.float32).T,
        "scale": np.array(value, dtype=np.float64),
        "empty": np.zeros((0, 3), dtype=np.float32),
    }
    return Memory(
        "contrastive", {LOCAL: {"ecg_encoder": arrays}, CONTROL: {"p": {"w|x": arrays["w"]}}}
    )


def rounds(folder, count=ROUNDS):
    """Write the generations contrastive/1 ... in a folder, each from the one before."""
    for number in range(1, count + 1):
        base = f"contrastive/{number - 1}" if number > 1 else ""
        header = a_header(number, base)
        RunMemory(folder, header).write(header, a_memory(number))
    return RunMemory(folder, a_header())


def same(a, b):
    def flat(memory):
        return {
            (k, p, n): (v.dtype, v.shape, v.tobytes())
            for k, parts in memory.groups.items()
            for p, arrays in parts.items()
            for n, v in arrays.items()
        }

    return a.stage == b.stage and flat(a) == flat(b)


def files(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file())


def test_a_generation_comes_back_to_the_bit(tmp_path):
    memory = rounds(tmp_path)
    for number in range(1, ROUNDS + 1):
        assert same(memory.read(f"contrastive/{number}"), a_memory(number))


def test_the_empty_name_is_an_empty_memory(tmp_path):
    assert RunMemory(tmp_path, a_header()).read("").groups == {}
    assert files(tmp_path) == []


@pytest.mark.parametrize("name", ["contrastive/9", "../../etc/passwd", "*", "a\x00b", "x" * 5000])
def test_what_is_not_here_is_told_by_a_code(tmp_path, name):
    with pytest.raises(SiteError, match="missing_memory"):
        rounds(tmp_path).read(name)


def test_a_repeated_round_replaces_its_own_generation_only(tmp_path):
    memory = rounds(tmp_path)
    header = a_header(3, "contrastive/2")
    memory.write(header, a_memory(30))
    assert same(memory.read("contrastive/3"), a_memory(30))
    assert same(memory.read("contrastive/2"), a_memory(2))
    assert len(files(tmp_path)) == ROUNDS


def test_the_newest_three_stay_and_the_one_the_server_used_last(tmp_path):
    memory = rounds(tmp_path, 4)
    assert len(files(tmp_path)) == 3
    for number in range(5, 9):
        # Rounds 5 to 8 are refused by the server: it names round 4 each time.
        memory.write(a_header(number, "contrastive/4"), a_memory(number))
        assert same(memory.read("contrastive/4"), a_memory(4))
        assert len(files(tmp_path)) == 3


def test_other_runs_and_other_plans_of_the_same_name_know_nothing_of_it(tmp_path):
    rounds(tmp_path)
    for other in (a_header(run="run-2"), a_header(config_hash="d")):
        with pytest.raises(SiteError):
            RunMemory(tmp_path, other).read("contrastive/3")


def test_the_name_of_a_run_does_not_choose_the_path(tmp_path):
    runs = tmp_path / "cache" / "runs"
    for run in ("../../up", "/etc/x", "a\x00b", "", "x" * 5000):
        header = a_header(run=run)
        RunMemory(runs, header).write(header, a_memory(1))
    assert all(p.parent.parent == runs for p in files(tmp_path))


def test_a_runs_folder_is_for_the_sites_own_account_only(tmp_path):
    rounds(tmp_path / "cache" / "runs")
    (folder,) = (tmp_path / "cache" / "runs").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700


def test_only_the_newest_runs_are_kept(tmp_path):
    for number in range(8):
        header = a_header(run=f"run-{number}")
        RunMemory(tmp_path, header).write(header, a_memory(1))
    assert len(list(tmp_path.iterdir())) == 5
    assert RunMemory(tmp_path, a_header(run="run-7")).read("contrastive/1").groups


def damaged(data: bytes, place: float, bit: int | None) -> bytes:
    """Flip a bit at a place of the file, or cut the file there."""
    at = min(int(place * len(data)), len(data) - 1)
    if bit is None:
        return data[:at]
    return data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]


@settings(max_examples=200, deadline=None)
@given(
    place=st.floats(0, 1),
    bit=st.one_of(st.none(), st.integers(0, 7)),
    victim=st.integers(1, ROUNDS),
)
def test_no_damage_gives_a_wrong_memory_or_harms_another_generation(place, bit, victim):
    with tempfile.TemporaryDirectory() as name:
        memory = rounds(Path(name))
        path = files(Path(name))[victim - 1]
        path.write_bytes(damaged(path.read_bytes(), place, bit))
        for number in range(1, ROUNDS + 1):
            if number == victim:
                with pytest.raises(SiteError, match="missing_memory"):
                    memory.read(f"contrastive/{number}")
            else:
                assert same(memory.read(f"contrastive/{number}"), a_memory(number))


def test_where_the_newest_is_lost_the_personal_tensors_before_it_are_gone_on_from(tmp_path):
    memory = rounds(tmp_path)
    before = memory.read("contrastive/2?")
    assert same(Memory("contrastive", {LOCAL: a_memory(2).groups[LOCAL]}), before)
    files(tmp_path)[1].write_bytes(b"torn")
    assert memory.read("contrastive/2?").groups == {}


def test_a_whole_file_under_another_generations_name_is_not_believed(tmp_path):
    memory = rounds(tmp_path)
    first, second, _ = files(tmp_path)
    second.write_bytes(first.read_bytes())
    with pytest.raises(SiteError, match="missing_memory"):
        memory.read("contrastive/2")


def test_a_write_that_was_killed_halfway_leaves_what_was_there(tmp_path, monkeypatch):
    memory = rounds(tmp_path)

    def killed(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("client.memory.os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            memory.write(a_header(4, "contrastive/3"), a_memory(4))
    assert same(memory.read("contrastive/3"), a_memory(3))
    memory.write(a_header(4, "contrastive/3"), a_memory(4))
    assert same(memory.read("contrastive/4"), a_memory(4))
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_full_disk_is_an_error_that_names_the_folder(tmp_path, monkeypatch):
    memory = rounds(tmp_path)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("client.memory.os.fsync", full)
    with pytest.raises(DataError, match="make room"):
        memory.write(a_header(4, "contrastive/3"), a_memory(4))
    assert same(memory.read("contrastive/3"), a_memory(3))


# -- two processes at the same run -----------------------------------------------------------------

HOLDER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.client.test_memory import RunMemory, a_header
memory = RunMemory(Path(sys.argv[2]), a_header())
with memory.alone(0):
    (memory._folder / ".writing-1.tmp").write_text("half")
    print("here", flush=True)
    sys.stdin.read()
"""
WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.client.test_memory import write_answers
print("here", flush=True)
write_answers(Path(sys.argv[2]))
"""


def write_answers(folder):
    memory = RunMemory(folder, a_header())
    for number in range(40):
        memory.keep_answer(str(number), UPDATE)


@pytest.fixture
def child(tmp_path):
    """Start a real process that has the run's folder; told `here`, it is at work."""
    started = []

    def start(code):
        words = [sys.executable, "-c", code, str(ROOT), str(tmp_path)]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout.readline() == b"here\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_killed_process_lets_the_next_one_in_which_sweeps_what_it_left(
    tmp_path, monkeypatch, child
):
    other, looks, lock = child(HOLDER), [], client.memory._lock

    def look(descriptor):
        looks.append(lock(descriptor))
        if len(looks) == 2:
            other.kill()
        return looks[-1]

    monkeypatch.setattr(client.memory, "_lock", look)
    with RunMemory(tmp_path, a_header()).alone(0) as waited_s:
        assert looks[:2] == [False, False] and looks[-1] and waited_s > client.memory.LOOK_S
        assert [p.name for p in files(tmp_path)] == [LOCK]


def test_nobody_waits_longer_than_the_tasks_budget(tmp_path, child):
    child(HOLDER)
    with (
        pytest.raises(SiteError) as refused,
        RunMemory(tmp_path, a_header()).alone(0.01),
    ):
        raise AssertionError("two at once")
    assert refused.value.code == "budget"


def test_other_runs_do_not_wait(tmp_path):
    one, two = (RunMemory(tmp_path, a_header(run=run)) for run in ("run-1", "run-2"))
    with one.alone(0), two.alone(0.01):
        pass


def test_two_that_write_at_once_do_not_break_each_others_files(tmp_path, child):
    other = child(WRITER)
    write_answers(tmp_path)
    assert other.wait() == 0
    assert RunMemory(tmp_path, a_header()).answer("39").num_examples == UPDATE.num_examples
    assert [p.name for p in files(tmp_path)] == [ANSWER]


def test_another_stage_takes_the_personal_tensors_only(tmp_path):
    memory = a_memory(2)
    memory.groups[RESIDUAL] = {"p": {"w": np.ones(3)}}
    assert set(memory.entering("contrastive").groups) == {LOCAL, CONTROL, RESIDUAL}
    assert set(memory.entering("phenotypes").groups) == {LOCAL}


# -- the stored answer -----------------------------------------------------------------------------

UPDATE = Update(
    "hillcrest",
    "run-1",
    "contrastive",
    2,
    num_examples=51,
    metrics={"train_loss": 0.1 + 0.2},
    modalities=("cine", "ecg"),
    delta={
        "ecg_encoder": {
            "w": np.arange(6, dtype=np.float32).reshape(2, 3).T,
            "q": np.arange(4, dtype=np.int8),
            "q|scale": np.array([0.5], dtype=np.float32),
        }
    },
    sums={"n": np.array([3.0])},
    steps=3,
    examples={"ecg_encoder": 51},
)


def test_an_answer_comes_back_as_it_was(tmp_path):
    memory = RunMemory(tmp_path, a_header())
    assert memory.answer("m") is None
    memory.keep_answer("m", UPDATE)
    back = memory.answer("m")
    assert replace(back, delta={}, sums={}) == replace(UPDATE, delta={}, sums={})
    for name, array in UPDATE.delta["ecg_encoder"].items():
        got = back.delta["ecg_encoder"][name]
        assert (got.dtype, got.shape) == (array.dtype, array.shape) and np.array_equal(got, array)
    assert np.array_equal(back.sums["n"], [3.0])
    assert memory.answer("another task") is None


def test_the_newest_answer_takes_the_place_of_the_one_before(tmp_path):
    memory = RunMemory(tmp_path, a_header())
    memory.keep_answer("1", UPDATE)
    memory.keep_answer("2", UPDATE)
    assert memory.answer("1") is None and memory.answer("2") is not None
    assert len(files(tmp_path)) == 1


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1), bit=st.one_of(st.none(), st.integers(0, 7)))
def test_a_damaged_answer_is_none(place, bit):
    with tempfile.TemporaryDirectory() as name:
        memory = RunMemory(Path(name), a_header())
        memory.keep_answer("m", UPDATE)
        (path,) = files(Path(name))
        assert path.name == ANSWER
        path.write_bytes(damaged(path.read_bytes(), place, bit))
        assert memory.answer("m") is None
