"""The supervisor: no run without a server is left alone, none is started twice, none for ever."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

from cardionets_core.errors import EngineError
from cardionets_core.run_config import CONF, compose, run_config_from
from server.server_app import write_config
from server.status import Queue, standing, words
from server.status_file import (
    FILE_NAME,
    Status,
    Submission,
    read_status,
    read_submission,
    write_json,
    write_submission,
)
from server.supervisor import MAX_RESTARTS, START_S, Supervisor, queue_of

SERVER = 4711  # a process id
BORN = 1000.0


class FakeFlower:
    """Numbers runs from 2 on, and says of each what a test wants."""

    def __init__(self):
        self.submitted, self.stopped, self.words, self.away = [], [], {}, False

    def submit(self, run_config):
        if self.away:
            raise EngineError("the SuperLink is away")
        self.submitted.append(run_config["run"])
        return len(self.submitted) + 1

    def state(self, run_id):
        if self.away:
            raise EngineError("the SuperLink is away")
        return self.words.get(run_id, "running")

    def stop(self, run_id):
        self.stopped.append(run_id)


@pytest.fixture
def world(tmp_path):
    """A run that was submitted as number 1, whose server runs as process SERVER."""
    return World(tmp_path)


class World:
    def __init__(self, outputs):
        self.outputs, self.folder = outputs, outputs / "trial"
        values = compose("run", ["name=trial", "model=tiny"], package=CONF)
        write_config(self.folder, run_config_from(values))
        write_submission(self.folder, Submission(1, time=1.0))
        self.processes = {SERVER: BORN, os.getpid(): 1.0}
        self.flower, self.said, self.given_up, self.now = FakeFlower(), [], [], 0.0
        self.supervisor = self.new_supervisor()

    def new_supervisor(self, **settings):
        return Supervisor(
            self.outputs,
            home=self.outputs / ".engine",
            kept=(),
            engine=self.flower,
            say=self.said.append,
            processes=self.processes.get,
            ended=self.given_up.append,
            **settings,
        )

    def serve(self, number=1, **how):
        """The server of a submission speaks."""
        status = Status("RUNNING", pid=SERVER, started=BORN, flower_run=number)
        write_json(self.folder / FILE_NAME, vars(replace(status, **how)))
        self.processes[SERVER] = BORN

    def kill(self):
        self.processes.pop(SERVER, None)

    def round(self, number):
        entry = {"event": "round", "stage": "tokenizer", "round": number}
        with (self.folder / "progress.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def pass_time(self, seconds=0.0):
        self.now += seconds
        self.supervisor.tick(self.now)

    @property
    def truth(self):
        return words(standing(self.folder, 0.0, self.processes.get, Queue(True, True)))


def test_a_killed_server_is_replaced_at_once_and_its_flower_run_stopped(world):
    world.serve()
    world.pass_time()
    assert world.flower.submitted == []
    world.kill()
    assert world.truth == "QUEUED"
    world.pass_time()
    assert world.flower.submitted == ["trial"] and world.flower.stopped == [1]
    assert read_submission(world.folder).flower_run == 2
    assert world.truth == "QUEUED"
    world.pass_time(1.0)
    assert world.flower.submitted == ["trial"]  # not twice while the new one starts
    world.serve(2)
    world.pass_time(1.0)
    assert world.truth == "RUNNING" and len(world.flower.submitted) == 1


def test_a_process_that_was_given_the_same_number_is_not_the_server(world):
    world.serve()
    world.processes[SERVER] = BORN + 50
    world.pass_time()
    assert world.flower.submitted == ["trial"]


@pytest.mark.parametrize(
    "final",
    [Status("COMPLETED"), Status("INCOMPLETE", ("north",)), Status("FAILED", code="config")],
    ids=lambda status: status.state,
)
def test_a_run_that_has_ended_stays_so(world, final):
    world.serve(state=final.state, sites=final.sites, code=final.code)
    for server in (world.pass_time, world.kill, world.pass_time):
        server()
    world.pass_time(1000.0)
    assert world.flower.submitted == [] and world.truth == words(final)


def test_a_run_that_a_person_resumes_is_looked_after_again(world):
    world.serve(state="INCOMPLETE", sites=("north",))
    world.kill()
    world.pass_time()
    write_submission(world.folder, Submission(9, time=2.0))
    world.pass_time(1.0)
    world.serve(9)
    world.pass_time(1.0)
    world.kill()
    world.pass_time(1.0)
    assert world.flower.submitted == ["trial"]


def test_a_server_that_was_stopped_through_flower_is_not_replaced(world):
    world.serve(interrupted=True)
    world.pass_time()
    world.kill()
    world.flower.words[1] = "finished:stopped"
    world.pass_time(1.0)
    assert world.truth == "FAILED(stopped)" and world.flower.submitted == []
    assert world.given_up == [world.folder]


def test_a_server_that_flower_gave_up_is_replaced(world):
    """The SuperLink was away for more than a minute: Flower fails the run and ends the server."""
    world.serve(interrupted=True)
    world.kill()
    world.flower.words[1] = "finished:failed"
    world.pass_time(1.0)
    assert world.flower.submitted == ["trial"]


def test_a_person_stops_a_run_whatever_happens_to_its_server(world):
    world.serve()
    write_submission(world.folder, replace(read_submission(world.folder), stop=True))
    world.pass_time()
    assert world.truth == "RUNNING"
    world.kill()
    world.pass_time()
    assert world.truth == "FAILED(stopped)" and world.flower.submitted == []


def test_a_wish_to_stop_is_not_lost_while_the_run_is_handed_over(world):
    world.serve()
    world.kill()
    submit = world.flower.submit

    def submit_slowly(run_config):
        write_submission(world.folder, replace(read_submission(world.folder), stop=True))
        return submit(run_config)

    world.flower.submit = submit_slowly
    world.pass_time()
    assert read_submission(world.folder).stop
    assert read_submission(world.folder).flower_run == 2


def test_a_crash_loop_ends_after_five_starts(world):
    world.serve()
    for start in range(MAX_RESTARTS):
        world.kill()
        world.pass_time(100.0)
        world.pass_time(100.0)
        assert len(world.flower.submitted) == start + 1
        world.serve(start + 2)
    world.kill()
    world.pass_time(100.0)
    world.pass_time(100.0)
    assert len(world.flower.submitted) == MAX_RESTARTS
    assert world.truth == "FAILED(crash_loop)" and world.given_up == [world.folder]


def test_a_finished_round_in_between_is_no_crash_loop(world):
    world.serve()
    for start in range(3 * MAX_RESTARTS):
        world.round(start)
        world.kill()
        world.pass_time(100.0)
        world.pass_time(100.0)
        world.serve(start + 2)
    assert len(world.flower.submitted) == 3 * MAX_RESTARTS and world.truth == "RUNNING"


def test_the_pauses_of_a_crash_loop_grow(world):
    world.serve()
    waits = []
    for start in range(MAX_RESTARTS):
        world.kill()
        died = world.now
        while len(world.flower.submitted) == start:
            world.pass_time(0.5)
        waits.append(world.now - died)
        world.serve(start + 2)
    assert waits[0] <= 0.5 and waits == sorted(waits) and waits[-1] >= 8.0


def test_a_submitted_run_whose_server_never_speaks_is_asked_for(world):
    world.pass_time()
    world.pass_time(START_S - 1)
    world.flower.words[1] = "finished:failed"
    assert world.flower.submitted == []
    world.pass_time(2.0)
    assert world.flower.submitted == ["trial"]


def test_a_run_that_waits_in_flower_is_left_there(world):
    for _ in range(10):
        world.pass_time(START_S)
    assert world.flower.submitted == []


def test_a_superlink_that_is_away_is_asked_again(world):
    world.serve()
    world.kill()
    world.flower.away = True
    world.pass_time()
    world.pass_time(1.0)
    assert world.said and world.flower.submitted == []
    world.flower.away = False
    world.pass_time(10.0)
    assert world.flower.submitted == ["trial"]


def test_nothing_is_asked_while_the_superlink_starts(world):
    world.supervisor = world.new_supervisor(ready=lambda: False)
    world.serve()
    world.kill()
    world.pass_time()
    assert world.flower.submitted == []


def test_a_supervisor_that_starts_takes_up_what_a_crash_left(world):
    world.serve()
    world.kill()
    world.supervisor = world.new_supervisor()
    world.supervisor.start()
    world.pass_time()
    assert world.flower.submitted == ["trial"]


def test_without_resume_a_lost_run_is_left_and_shown_as_failed(world):
    world.serve()
    world.kill()
    world.supervisor = world.new_supervisor(resume=False)
    world.supervisor.start()
    world.pass_time()
    world.pass_time(1000.0)
    assert world.flower.submitted == []
    queue = queue_of(world.outputs / ".engine", processes=world.processes.get)
    assert queue == Queue(alive=True, resumes=False)
    found = standing(world.folder, 0.0, world.processes.get, queue)
    assert words(found) == "FAILED(server_gone)"


def test_two_supervisors_do_not_share_an_output_folder(world):
    world.supervisor.start()
    with pytest.raises(EngineError, match="another coordinator"):
        world.new_supervisor().start()
    world.processes.clear()
    world.new_supervisor().start()


def test_a_damaged_submission_harms_nobody(world):
    (world.folder / "submission.json").write_text("{")
    world.pass_time()
    world.pass_time(1000.0)
    assert world.flower.submitted == [] and read_status(world.folder) is None


def test_a_submission_that_is_torn_while_the_run_goes_on_does_not_cost_the_next_start(world):
    world.serve()
    (world.folder / "submission.json").write_text("{")
    world.pass_time()
    world.kill()
    world.pass_time()
    assert world.flower.submitted == ["trial"] and world.flower.stopped == [1]
    assert read_submission(world.folder).flower_run == 2


@pytest.mark.parametrize("text", ["{", "\x00", '{"name": 3}'])
def test_a_torn_plan_ends_the_run_with_the_reason_instead_of_trying_for_ever(world, text):
    world.serve()
    world.kill()
    (world.folder / "config.json").write_text(text)
    world.pass_time()
    assert world.truth == "FAILED(checkpoint)" and world.given_up == [world.folder]
    assert read_status(world.folder).reason
    world.pass_time(1000.0)
    assert world.flower.submitted == []
