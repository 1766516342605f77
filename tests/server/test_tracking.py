"""MLflow may be away: training goes on, nothing is lost that it can still take, and it is said."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from cardionets_core.errors import EngineError
from server import tracking
from server.status_file import STATES
from server.tracking import STATE_TAG, STATUSES, Tracker, embedded_uri, mark_state

mlflow = pytest.importorskip("mlflow")

PATIENCE_S = 300.0


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """One folder for all: making MLflow's database takes seconds."""
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture
def run(outputs, request):
    folder = outputs / request.node.name
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(tracking, "RETRY_S", 0.05)
    monkeypatch.setattr(tracking, "MARK_S", PATIENCE_S)


def found(folder, run_id):
    return mlflow.MlflowClient(embedded_uri(folder)).get_run(run_id)


def test_an_outage_in_the_middle_delays_the_log_and_nothing_else(run, monkeypatch):
    said = []
    tracker = Tracker(run, behind=said.append)
    tracker.params({"a": {"b": 1}})
    tracker.metrics({"loss": 3.0}, 1)
    tracker.require(PATIENCE_S)
    while tracker._entries:
        time.sleep(0.01)
    log_batch = tracker._client.log_batch

    asked = threading.Event()

    def away(*args, **kwargs):
        assert asked.wait(PATIENCE_S)
        raise ConnectionError("connection refused")

    monkeypatch.setattr(tracker._client, "log_batch", away)
    tracker.metrics({"loss": 2.0}, 2)
    tracker.metrics({"loss": 1.0}, 3)
    asked.set()  # a round does not wait: MLflow answers only now
    while not said:
        time.sleep(0.01)
    assert "connection refused" in said[0] and "for it" in said[0]
    monkeypatch.setattr(tracker._client, "log_batch", log_batch)
    tracker.state("COMPLETED")
    assert tracker.close(PATIENCE_S) and said[1:] == [""]
    history = mlflow.MlflowClient(embedded_uri(run)).get_metric_history(tracker.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    end = found(run, tracker.run_id)
    assert end.info.status == "FINISHED" and end.data.tags[STATE_TAG] == "COMPLETED"
    assert end.data.params == {"a.b": "1"}


def test_what_mlflow_never_took_is_said(run, monkeypatch):
    said = []
    tracker = Tracker(run, behind=said.append)
    tracker.require(PATIENCE_S)
    monkeypatch.setattr(tracker._client, "log_batch", lambda *a, **k: 1 / 0)
    tracker.metrics({"loss": 2.0}, 2)
    while not said:
        time.sleep(0.01)
    assert not tracker.close(0.2)
    assert "1 entry waits" in said[-1] or "division" in said[-1]


def test_what_mlflow_refuses_is_not_tried_for_ever(run, caplog):
    """A parameter cannot be logged with another value; what follows it is still logged."""
    tracker = Tracker(run)
    tracker.params({"a": 1})
    tracker.params({"a": 2})
    tracker.metrics({"loss": 2.0}, 1)
    assert tracker.close(PATIENCE_S)
    assert "MLflow refused an entry" in caplog.text
    assert found(run, tracker.run_id).data.metrics == {"loss": 2.0}


@pytest.fixture
def broken_server():
    """A tracking server that answers every question with an error; returns its address."""

    class Broken(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(503)

        do_POST = do_GET

        def log_message(self, *words):
            pass

    with HTTPServer(("127.0.0.1", 0), Broken) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_new_run_with_a_wrong_address_is_refused_by_name(run, broken_server):
    tracker = Tracker(run, tracking_uri=broken_server)
    with pytest.raises(EngineError, match=f"MLflow at {broken_server} cannot be used"):
        tracker.require(PATIENCE_S)
    assert not tracker.close(0.1)


def test_whoever_finds_a_run_without_a_server_tells_mlflow(run):
    tracker = Tracker(run)
    tracker.state("RUNNING")
    assert tracker.close(PATIENCE_S)
    assert found(run, tracker.run_id).info.status == "RUNNING"
    mark_state(run, "FAILED(server_gone)", tracking_uri="", experiment="cardionets")
    after = found(run, tracker.run_id)
    assert after.info.status == "KILLED" and after.data.tags[STATE_TAG] == "FAILED(server_gone)"
    mark_state(run.parent / "unknown", "FAILED(stopped)", tracking_uri="", experiment="x")


def test_every_state_has_a_status_of_mlflow():
    assert set(STATUSES) == set(STATES)
