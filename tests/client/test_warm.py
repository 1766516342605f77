"""The warm starter forks a fresh process per message; without it, apps start as Flower does."""

from __future__ import annotations

import ast
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from cardionets_core import lifetime
from cardionets_core.errors import ConfigError
from client import warm

PATIENCE_S = 300.0
STARTER = """
    import os, sys
    from pathlib import Path
    from cardionets_core import flower_compat, flower_site

    imported_in, kept = os.getpid(), []

    def program():
        if "task" in sys.argv:
            begun = os.pread(kept[0], 8, 0)
            print("begun before:", bool(begun), flush=True)
            os.pwrite(kept[0], (1).to_bytes(8, "big"), 0)
            if "sending" in sys.argv:
                os.ftruncate(kept[0], 0)
            if not begun or "always" in sys.argv:
                os.kill(os.getpid(), 9)
        print("argv", sys.argv[1:], "home", os.environ["WHO"], "cwd", os.getcwd())
        print("forked", os.getpid() != imported_in, "left", os.environ.get("LEFT"))
        os.environ["LEFT"] = "something"
        if "fail" in sys.argv:
            raise ValueError("of the app")
        if "kill" in sys.argv:
            os.kill(os.getpid(), 9)
        if "hang" in sys.argv:
            from cardionets_core import lifetime
            lifetime.HANG_S = 0.1
            lifetime.end_hung(0.2)
            import threading
            threading.Event().wait()
        if "leave" in sys.argv:
            sys.exit(7)

    flower_compat.client_app_program = lambda: program
    flower_site.keep_task_input = kept.append
    from cardionets_core import warm
    warm.serve(warm.CLIENT_PROGRAM, Path(sys.argv[1]), [])
"""


@pytest.fixture
def starter(tmp_path):
    """A starter whose program is a few prints, and the environment that finds it."""
    link = tmp_path / "s"
    warm.install(tmp_path / "programs")
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(STARTER), str(link)],
        cwd=Path(warm.__file__).parents[1],
    )
    try:
        while not link.exists():
            assert process.poll() is None
            time.sleep(0.05)
        yield {**os.environ, warm.SOCKET_ENV: str(link), "WHO": "north"}
    finally:
        process.kill()
        process.wait()


def start(folder: Path, env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(folder / "programs" / warm.PROGRAM), *arguments],
        env=env,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_each_message_gets_a_fresh_process_with_its_own_surroundings(tmp_path, starter):
    first = start(tmp_path, starter, "--token", "a b")
    assert f"argv ['--token', 'a b'] home north cwd {tmp_path}" in first.stdout
    assert "forked True left None" in first.stdout and first.returncode == 0
    second = start(tmp_path, {**starter, "WHO": "south"})
    assert "home south" in second.stdout and "left None" in second.stdout


@pytest.mark.parametrize(
    ("word", "code"), [("leave", 7), ("fail", 1), ("kill", 137), ("hang", 137)]
)
def test_exit_codes_and_tracebacks_arrive(tmp_path, starter, word, code):
    done = start(tmp_path, starter, word)
    assert done.returncode == code
    if word == "fail":
        assert "ValueError: of the app" in done.stderr
    assert start(tmp_path, starter).returncode == 0  # the starter itself lives on


@pytest.mark.parametrize(
    ("words", "starts", "code"),
    [((), 2, 0), (("always",), 2, 137), (("sending",), 1, 137)],
    ids=["killed once", "killed twice", "killed while its reply travels"],
)
def test_a_task_whose_process_was_killed_is_begun_once_more(tmp_path, starter, words, starts, code):
    done = start(tmp_path, starter, "task", *words)
    assert done.returncode == code
    assert done.stdout.count("begun before") == starts
    assert ("starting it once more" in done.stderr) == (starts == 2)


def test_a_process_that_serves_others_too_is_not_ended():
    lifetime.end_hung(-lifetime.HANG_S + 1e-6)
    time.sleep(0.01)


def test_messages_are_worked_on_side_by_side(tmp_path, starter):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(start(tmp_path, starter).returncode))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [0] * 6


@pytest.mark.parametrize("broken", ["unset", "nobody"])
def test_without_a_starter_the_plain_program_runs(tmp_path, broken):
    plain = tmp_path / "plain" / warm.PROGRAM
    plain.parent.mkdir()
    plain.write_text('#!/bin/sh\necho plain "$@"\nexit 5\n')
    plain.chmod(0o755)
    own = warm.install(tmp_path / "programs")
    env = {"PATH": f"{own}:{plain.parent}:/usr/bin:/bin"}
    if broken == "nobody":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "dead"))
        env[warm.SOCKET_ENV] = str(tmp_path / "dead")
    done = start(tmp_path, env, "--token", "t")
    assert done.stdout == "plain --token t\n" and done.returncode == 5
    assert "no warm starter" in done.stderr


def test_only_its_user_can_talk_to_a_starter(tmp_path, starter):
    assert Path(starter[warm.SOCKET_ENV]).stat().st_mode & 0o077 == 0


def test_a_path_too_long_for_a_socket_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="shorter folder"):
        warm.starter(tmp_path / ("x" * 100), home=tmp_path)


def test_nothing_heavy_is_left_for_the_first_use():
    """Libraries import more when they are first used; every fork would pay for that again."""
    code = f"""
import importlib, sys
for module in {warm.APP_MODULES!r}:
    importlib.import_module(module)
known = set(sys.modules)
from cardionets_core.runtime import set_up
from cardionets_core.run_config import CONF, compose
set_up(1)
compose("run", ["name=x"], package=CONF)
print(sorted(set(sys.modules) - known))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(ast.literal_eval(done.stdout.splitlines()[-1])) < 20, done.stdout
