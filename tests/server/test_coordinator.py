"""What `cardionets-coordinator` says, and what it leaves alone."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import server.cli
import server.coordinator
from cardionets_core.config_tree import to_mapping
from cardionets_core.errors import EngineError, RunError
from cardionets_core.run_config import CONF, compose, run_config_from
from cardionets_core.supervision import process_start
from server import flower_cli, following
from server.cli import app
from server.following import follow, lines_of, require_run, row_of, waits_for
from server.plan_file import write_config
from server.progress import Progress
from server.refusals import too_few
from server.status import Queue, Standing, failure, standing
from server.status_file import (
    Status,
    Submission,
    give_up,
    read_status,
    write_json,
    write_submission,
)
from server.supervisor import MARKER
from simulations.process_group import reserved_ports

PLAN = ["name=trial", "stages=[handshake,ecg_masked]", "min_sites=2"]


def coordinator(*words):
    return CliRunner().invoke(app, [str(w) for w in words])


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return every file below a folder with its bytes and the time when it was written."""
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in paths}


@pytest.fixture(autouse=True)
def same_umask():
    """Leave the files of other tests as they would be."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture
def outputs(tmp_path):
    """A folder with the run `trial`, which is COMPLETED after one round, and a coordinator."""
    folder = tmp_path / "trial"
    write_config(folder, run_config_from(compose("run", PLAN, package=CONF)))
    progress = Progress(folder, flower_run=1)
    progress.round(record("ecg_masked", ["a"], {"b": "lost"}))
    progress.end(Status("COMPLETED"))
    write_submission(folder, Submission(1, time=1.0))
    engine = tmp_path / ".engine"
    (engine / "cli").mkdir(parents=True)
    (engine / "cli" / "config.toml").write_text(
        '[superlink.cardionets]\naddress = "127.0.0.1:8080"\ninsecure = true\n'
    )
    pid = os.getpid()
    write_json(engine / MARKER, {"pid": pid, "started": process_start(pid) or 0.0, "resume": True})
    return tmp_path


def record(stage, accepted, refused, **more):
    numbers = {"metrics": {}, "site_metrics": {}, "bytes_up": {}, "bytes_down": {}}
    return {
        "stage": stage, "round": 1, "rounds": 3, "seconds": 2.0, "accepted": accepted,
        "refused": refused, "num_examples": {}, **numbers, **more,
    }  # fmt: skip


def test_a_completed_run_is_not_gone_on_with_and_stays_as_it_is(outputs):
    before = files(outputs)
    result = coordinator("run", "--resume", "trial", "--output", outputs)
    assert (
        result.exit_code == 2 and "trial is COMPLETED: there is nothing to go on" in result.output
    )
    assert files(outputs) == before


def test_a_run_that_does_not_exist_has_no_state(outputs):
    result = coordinator("stop", "trail", "--output", outputs)
    assert result.exit_code == 2
    assert f"there is no run 'trail' in {outputs} (did you mean 'trial'?)" in result.output
    assert require_run(outputs, "trial") == outputs.resolve() / "trial"


def test_a_coordinator_that_is_refused_has_written_nothing(outputs, free_port):
    before = files(outputs)
    result = coordinator("start", "--output", outputs, "--port", free_port)
    assert result.exit_code == 2 and "another coordinator looks after" in result.output
    assert files(outputs) == before


def test_printing_the_commands_writes_nothing(tmp_path):
    result = coordinator("start", "--print-command", "--output", tmp_path / "new")
    assert result.exit_code == 0 and "flower-superlink" in result.output
    assert not (tmp_path / "new").exists()


@pytest.fixture
def free_port():
    with reserved_ports(1) as (port,):
        yield port


def test_what_a_coordinator_writes_is_for_one_user(tmp_path, monkeypatch, free_port):
    seen = []

    def keep_running(*arguments, **named):
        seen.append(os.umask(0o022))

    monkeypatch.setattr(server.cli, "keep_running", keep_running)
    coordinator("start", "--output", tmp_path, "--port", free_port)
    assert seen == [0o077]


def test_ctrl_c_ends_the_following_and_says_so(outputs, monkeypatch):
    def interrupted(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(server.cli, "follow", interrupted)
    monkeypatch.setattr(server.cli, "_plan", lambda words: _plan("second"))
    monkeypatch.setattr(flower_cli.FlowerCli, "submit", lambda self, run_config: 7)
    result = coordinator("run", "--output", outputs)
    assert result.exit_code == 130 and "second goes on and is only no longer shown" in result.output
    assert f"cardionets-coordinator stop second --output {outputs}" in result.output
    assert "start again" not in result.output


def _plan(name):
    return run_config_from(compose("run", [*PLAN[1:], f"name={name}"], package=CONF))


def test_the_hint_to_start_it_is_not_said_by_the_coordinator_itself(monkeypatch):
    def slow(*arguments, timeout, **named):
        raise subprocess.TimeoutExpired("flwr", timeout)

    monkeypatch.setattr(flower_cli.subprocess, "run", slow)
    with pytest.raises(EngineError, match=r"no answer within 60 s$"):
        flower_cli.FlowerCli(Path("home")).state(1)


def test_an_option_that_was_written_as_a_setting_is_named(outputs):
    result = coordinator("run", "resume=trial", "--output", outputs)
    assert result.exit_code == 2 and "resume=trial: use --resume trial." in result.output


def test_the_plan_is_printed_with_the_stages_that_run():
    shown = server.cli._that_runs(_plan("second"))
    assert list(shown["stage"]) == ["ecg_masked"]
    assert len(to_mapping(_plan("second"))["stage"]) > 1


def test_no_sites_at_all_are_no_plan():
    with pytest.raises(Exception, match="min_sites is 0; it must be at least 1"):
        run_config_from(compose("run", ["name=r", "min_sites=0"], package=CONF))


def test_status_says_where_the_coordinator_is_and_who_is_online(outputs, monkeypatch):
    nodes = [{"status": "online"}, {"status": "offline"}, {"status": "online"}]
    monkeypatch.setattr(server.coordinator, "ask", lambda command, within_s: {"nodes": nodes})
    first = coordinator("status", "--output", outputs).output.splitlines()[0]
    assert first == "the coordinator is running on 127.0.0.1:8080; sites online: 2"
    (outputs / ".engine" / MARKER).unlink()
    assert coordinator("status", "--output", outputs).output.startswith("no coordinator is running")
    gone = coordinator("status", "--output", outputs / "nowhere")
    assert gone.exit_code == 2 and "is no folder" in gone.output


def test_a_resumed_run_stands_where_it_stood(outputs):
    progress = Progress(outputs / "trial", flower_run=2)
    assert (read_status(outputs / "trial").stage, read_status(outputs / "trial").round) == (
        "ecg_masked", 1
    )  # fmt: skip
    progress.round(record("handshake", ["a", "b"], {}))
    assert read_status(outputs / "trial").stage == "ecg_masked"
    progress.interrupted()


def test_a_round_says_who_is_not_in_it_and_what_is_new_of_the_sites():
    entry = record("ecg_masked", ["a"], {"b": "lost"}, news=["b came in under another node"])
    assert lines_of({"event": "round", **entry}) == [
        "ecg_masked 1/3  2.0 s  a  without b (lost)",
        "b came in under another node",
    ]


def test_a_run_is_not_silent_before_its_first_round():
    assert waits_for(Standing("QUEUED")) == "waiting for the server of the run to start"
    assert waits_for(Standing("RUNNING")).startswith("waiting for the sites")
    assert waits_for(Standing("WAITING", ("b",))) == ""  # the progress file says it


def test_the_notes_of_a_run_have_the_news_of_its_last_round(outputs):
    folder = outputs / "trial"
    with (folder / "progress.jsonl").open("a") as file:
        file.write('{"event": "round", "stage": "x", "round": 2, "news": ["two nodes"]}\n')
    assert row_of(folder, Standing("RUNNING", stage="x", round=2, rounds=3))[-1] == "two nodes"


def test_an_end_is_told_with_one_full_stop(tmp_path):
    write_config(tmp_path / "run", _plan("run"))
    progress = Progress(tmp_path / "run", flower_run=1)
    progress.end(Status("INCOMPLETE", sites=("b",), reason="Site b was lost."))
    with pytest.raises(RunError, match=r"Site b was lost\. Go on with it: .* --resume run\.$"):
        follow(tmp_path / "run", 0, queue=Queue, say=print)


def test_an_end_that_resuming_cannot_mend_does_not_advise_it(tmp_path):
    write_config(tmp_path / "run", _plan("run"))
    codes = {"a": "config"}
    final = failure(too_few("0 of 2 sites answered.", codes, private=True, lacking=2))
    Progress(tmp_path / "run", flower_run=1).end(final)
    with pytest.raises(RunError, match="To resume alone does not help") as caught:
        follow(tmp_path / "run", 0, queue=Queue, say=print)
    assert "--resume" not in str(caught.value) and str(caught.value).endswith("then resume.")


def test_status_shows_the_codes_of_the_round_that_was_not_done_and_cuts_nothing(
    outputs, monkeypatch
):
    codes = {"north": "privacy_spent", "hill": "privacy_spent", "st-barts": "late"}
    final = failure(too_few("1 of 4 sites answered.", codes, private=True, lacking=3))
    write_config(outputs / "spent", _plan("spent"))
    progress = Progress(outputs / "spent", flower_run=1)
    progress.round(record("ecg_masked", ["hill", "north"], {}))
    progress.end(final)
    row = row_of(outputs / "spent", standing(outputs / "spent", 0.0))
    assert row == [
        "spent", "INCOMPLETE(hill, north, st-barts)", "ecg_masked", "1/3",
        "late: st-barts; privacy_spent: hill, north", "-",
    ]  # fmt: skip
    (outputs / ".engine" / MARKER).unlink()  # or it would be asked who is online
    monkeypatch.setenv("COLUMNS", "60")
    shown = coordinator("status", "--output", outputs).output
    assert "…" not in shown
    for line in ("INCOMPLETE(hill,", "north,", "st-barts)"):
        assert f" {line} " in shown


def test_an_earlier_end_is_not_told_of_a_run_that_was_handed_over_again(outputs):
    folder, codes = outputs / "trial", {"north": "config"}
    write_config(folder, _plan("trial"))
    ended = failure(too_few("1 of 2.", codes, private=True, lacking=1))
    write_json(folder / "status.json", vars(replace(ended, flower_run=1)))
    write_submission(folder, Submission(2, time=2.0))
    again = standing(folder, 0.0, queue=Queue(alive=True))
    assert again == Standing("QUEUED")
    give_up(folder, "stopped", "a person stopped the run")
    after = read_status(folder)
    assert after.code == "stopped" and after.resume_helps and not after.refused


def test_a_server_that_was_replaced_is_told(outputs, monkeypatch):
    """While the run is followed the coordinator hands it to Flower once more."""
    folder, said = outputs / "trial", []
    write_json(folder / "status.json", vars(Status("RUNNING", flower_run=1)))

    def look():
        if said == ["waiting for the server of the run to start"]:
            write_submission(folder, Submission(2, time=2.0, rounds_done=1))
        if len(said) == 2:
            write_json(folder / "status.json", vars(Status("COMPLETED", flower_run=2)))
        return Queue(alive=True, resumes=True)

    monkeypatch.setattr(following.time, "sleep", lambda seconds: None)
    follow(folder, 10, queue=look, say=said.append)
    assert said[1] == (
        "the server of the run has died, or lost Flower; another one goes on after 1 round "
        "(the coordinator's console says when)"
    )
    assert said[2].startswith("summary") and len(said) == 3
