"""A real SuperLink, SuperExec and SuperNodes: a run goes through, and nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cardionets_core.errors import ConfigError, EngineError
from simulations import preparation, processes
from simulations.processes import Federation
from tests.processes import living

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 300.0

pytestmark = pytest.mark.timeout(1800)

SERVER = """
import json, os, time
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    print("the server app speaks")
    folder = Path(os.environ["CARDIONETS_OUTPUTS"]) / context.run_config["run"]
    if context.run_config["kind"] == "raise":
        raise RuntimeError("no luck today")
    nodes = [node.node_id for node in grid.get_nodes()]
    messages = [Message(RecordDict(), node, context.run_config["kind"], ttl=300) for node in nodes]
    waiting, answers = set(grid.push_messages(messages)), []
    while waiting:
        for reply in grid.pull_messages(list(waiting)):
            waiting.discard(reply.metadata.reply_to_message_id)
            if reply.has_error():
                answers.append({"code": reply.error.code, "reason": reply.error.reason})
            else:
                answers.append(dict(reply.content["facts"]))
        time.sleep(0.1)
    (folder / "answers.json").write_text(json.dumps(answers))
"""

CLIENT = """
import os, time
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()
IMPORTED_IN = os.getpid()

@app.train()
def train(message, context):
    site = Path(os.environ["SITE_CONFIG"])
    if site.stem == "broken":
        raise ValueError("of the site")
    facts = {"site": site.read_text(), "forked": IMPORTED_IN != os.getpid()}
    facts["extra"] = os.environ.get("EXTRA", "")
    return Message(RecordDict({"facts": ConfigRecord(facts)}), reply_to=message)

@app.train("hang")
def hang(message, context):
    Path(os.environ["SITE_CONFIG"]).with_suffix(".hangs").touch()
    time.sleep(600)
"""

PYPROJECT = """
[project]
name = "throwaway"
version = "0.1.0"
[tool.flwr.app]
publisher = "tests"
fab-include = ["pyproject.toml"]
[tool.flwr.app.components]
serverapp = "throwaway_server:app"
clientapp = "throwaway_client:app"
[tool.flwr.app.config]
run = ""
kind = "train"
"""


def make_apps(folder: Path) -> dict[str, object]:
    """Write two apps, their bundle and return what a Federation needs to run them."""
    (folder / "apps").mkdir(parents=True)
    (folder / "bundle").mkdir()
    (folder / "apps" / "throwaway_server.py").write_text(SERVER)
    (folder / "apps" / "throwaway_client.py").write_text(CLIENT)
    (folder / "bundle" / "pyproject.toml").write_text(PYPROJECT)
    return {"bundle": folder / "bundle", "env": {"PYTHONPATH": str(folder / "apps")}}


def make_sites(folder: Path, *names: str) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    sites = {name: folder / f"{name}.yaml" for name in names}
    for name, path in sites.items():
        path.write_text(f"name: {name}")
    return sites


def wait_until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.engine
def test_runs_go_through_and_nothing_is_left(tmp_path):
    """One start, several runs: success, a failing site, a failing server, refused keys."""
    folder, ticks = tmp_path / "run-1", []
    sites = make_sites(tmp_path / "sites", "north", "broken")
    setup = make_apps(tmp_path / "app")
    with Federation(folder, sites, site_env={"north": {"EXTRA": "n"}}, **setup) as federation:
        run_id = federation.submit({"run": "run-1"})
        state = federation.wait(run_id, lambda: ticks.append(1), seconds=PATIENCE_S)
        assert state.completed and state.finished and state.run_id == run_id, state
        assert state.bytes_in > 0 and state.bytes_out > 0 and ticks
        answers = json.loads((folder / "answers.json").read_text())
        expected = {"site": "name: north", "forked": True, "extra": "n"}
        assert expected in answers
        (error,) = [answer for answer in answers if "code" in answer]
        assert error == {"code": 2, "reason": "<class 'ValueError'>:<'of the site'>"}

        run_id = federation.submit({"run": "run-1", "kind": "raise"})
        failed = federation.wait(run_id, seconds=PATIENCE_S)
        assert failed.finished and not failed.completed
        assert failed.status == "finished:failed" and "no luck today" in failed.details
        assert "no luck today" in (folder / "logs" / "serverapp.log").read_text()

        with pytest.raises(EngineError, match=r"flwr run.*failed"):
            federation.submit({"rum": "run-1"})
        with pytest.raises(EngineError, match="another federation runs in"):
            Federation(folder, sites, **setup).__enter__()

        with pytest.raises(EngineError, match="site-north still runs"):
            federation.start_site("north")
        federation.processes.processes["site-north"].kill()
        federation.processes.processes["site-north"].wait(PATIENCE_S)
        federation.start_site("north")
        assert federation.processes.ended("site-north") is None

        # SuperLink, SuperExec, warm starter, and per site a SuperNode and its SuperExec
        wait_until(lambda: len(federation.processes.members()) >= 7)
        assert (folder / "engine" / "superexec.secret").stat().st_mode & 0o777 == 0o600
        pids = [process.pid for process in federation.processes.members()]
    assert living(pids) == []
    assert (folder / "logs" / "serverapp.log").read_text().count("the server app speaks") == 2
    assert "of the site" in (folder / "logs" / "site-broken.log").read_text()


HOLDER = """
    import json, sys, time
    from pathlib import Path
    from simulations.processes import Federation

    folder, sites, how, setup = Path(sys.argv[1]), json.loads(sys.argv[2]), *sys.argv[3:5]
    setup = json.loads(setup)
    hangs = [Path(path).with_suffix(".hangs") for path in sites.values()]
    sites = {name: Path(path) for name, path in sites.items()}
    with Federation(folder, sites, bundle=Path(setup["bundle"]), env=setup["env"]) as federation:
        run_id = federation.submit({"run": folder.name, "kind": "train.hang"})
        while not all(path.exists() for path in hangs):
            time.sleep(0.1)
        print(json.dumps([p.pid for p in federation.processes.members()]), flush=True)
        if how == "exception":
            raise RuntimeError("in the middle of a run")
        if how == "wait":
            federation.wait(run_id)
"""


@pytest.mark.engine
@pytest.mark.parametrize(
    ("how", "number", "code"),
    [
        ("normal", None, 0),
        ("exception", None, 1),
        ("wait", signal.SIGINT, -signal.SIGINT),
        ("wait", signal.SIGTERM, 128 + signal.SIGTERM),
        ("wait", signal.SIGKILL, -signal.SIGKILL),
    ],
    ids=["normal", "exception", "SIGINT", "SIGTERM", "SIGKILL"],
)
def test_no_orphan_while_a_site_trains(tmp_path, how, number, code):
    """Whatever ends us in the middle of a run, every process goes, app processes included."""
    setup = make_apps(tmp_path / "app")
    sites = make_sites(tmp_path / "sites", "north")
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(HOLDER),
            str(tmp_path / "run"),
            json.dumps({name: str(path) for name, path in sites.items()}),
            how,
            json.dumps({**setup, "bundle": str(setup["bundle"])}),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = holder.stdout.readline()
        assert line, holder.stderr.read()
        pids = json.loads(line)
        # SuperLink, SuperExec, ServerApp, starter, SuperNode, its SuperExec, stand-in, ClientApp
        assert len(pids) >= 8
        if number is not None:
            holder.send_signal(number)
        holder.communicate(timeout=PATIENCE_S)
        wait_until(lambda: living(pids) == [])
    finally:
        holder.kill()
        holder.communicate()
    assert holder.returncode == code


def test_a_taken_port_is_named_with_the_next_step(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        federation = Federation(tmp_path, make_sites(tmp_path / "sites", "north"), port=port)
        own = f"pid {os.getpid()}"
        with pytest.raises(EngineError, match=rf"port {port} is in use by .*{own}.*port=0"):
            federation.__enter__()
    assert not (tmp_path / "logs").exists()


@pytest.mark.engine
def test_a_superlink_that_does_not_start_is_quoted(tmp_path, monkeypatch):
    """Somebody takes the port between our check and Flower's start."""
    monkeypatch.setattr(processes, "check_port", lambda port: None)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        sites = make_sites(tmp_path / "sites", "north")
        federation = Federation(tmp_path, sites, port=port, **make_apps(tmp_path / "app"))
        with pytest.raises(
            EngineError, match=r"(?s)superlink stopped.*superlink.log ends with.*in use"
        ):
            federation.__enter__()
        assert federation.processes.members() == []


@pytest.mark.engine
def test_a_deadline_ends_a_slow_start(tmp_path):
    sites = make_sites(tmp_path / "sites", "north")
    federation = Federation(tmp_path, sites, start_s=0.5, **make_apps(tmp_path / "app"))
    with pytest.raises(EngineError, match=r"within 0\.5 s"):
        federation.__enter__()
    assert federation.processes.members() == []


@pytest.mark.parametrize("name", ["", "a b", "../x", "-n", "x" * 64])
def test_a_site_name_must_be_fit_for_a_folder(tmp_path, name):
    path = tmp_path / "site.yaml"
    path.touch()
    with pytest.raises(ConfigError, match="site name"):
        Federation(tmp_path, {name: path})


def test_missing_sites_and_files_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="at least one site"):
        Federation(tmp_path, {})
    with pytest.raises(ConfigError, match="north"):
        Federation(tmp_path, {"north": tmp_path / "none.yaml"})


def test_our_bundle_preloads_what_its_client_imports_late():
    modules = preparation.client_modules(ROOT / "server" / "bundle")
    assert modules[0] == "client.client_app" and len(modules) > 1
