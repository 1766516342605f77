"""The wall: whatever goes wrong at a site, only a code leaves it."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import client.local_training
import client.site
from cardionets_core.errors import (
    SITE_ERROR_CODES,
    CheckpointError,
    ConfigError,
    DataError,
    EngineError,
    RunError,
    SiteError,
    WireError,
)
from cardionets_core.flower_compat import as_delivered, stamp_message_id, task_identity
from cardionets_core.messages import (
    REFUSAL,
    Task,
    Update,
    task_to_records,
    update_from_records,
)
from client.client_app import answer, app
from tests.client.budget_bench import hospital
from tests.task_header import task_header

PLANTED = "/srv/data/ecg/SMITH_JOHN_1951-03-07_NHS9434765919.hea"
"""A path with a name, a birthday and a number, as a hospital's files have them."""


def a_task(stage="ecg_masked", action="train"):
    return task_to_records(Task(task_header(stage=stage, action=action)))


@pytest.fixture
def a_site(monkeypatch):
    monkeypatch.setattr(client.site, "open_site", lambda: None)


def failing(monkeypatch, error):
    def serve(task, site):
        raise error

    monkeypatch.setattr(client.local_training, "serve", serve)


def everything(content):
    """Return all bytes that Flower would put on the wire, and the text of every object inside."""
    return pickle.dumps(content) + repr(content).encode() + str(content).encode()


def code_of(content):
    assert set(content) == {REFUSAL}
    assert set(content[REFUSAL]) == {"code"}
    return content[REFUSAL]["code"]


def chained():
    try:
        try:
            open(PLANTED)
        except FileNotFoundError as cause:
            raise RuntimeError(f"cannot read {PLANTED}") from cause
    except RuntimeError as error:
        return error


class Odd(Exception):
    """An exception whose text fails, too."""

    def __str__(self):
        raise OSError(PLANTED)


ERRORS = [
    (ConfigError(PLANTED), "config"),
    (DataError(f"row 7: {PLANTED}"), "data"),
    (CheckpointError(PLANTED), "wire"),
    (WireError(PLANTED), "wire"),
    (RunError(PLANTED), "internal"),
    (EngineError(PLANTED), "internal"),
    (FileNotFoundError(2, "No such file", PLANTED), "internal"),
    (PermissionError(13, "Permission denied", PLANTED), "internal"),
    (UnicodeDecodeError("utf-8", PLANTED.encode(), 0, 1, PLANTED), "internal"),
    (KeyError(PLANTED), "internal"),
    (ValueError(PLANTED), "internal"),
    (MemoryError(PLANTED), "internal"),
    (RecursionError(PLANTED), "internal"),
    (AssertionError(PLANTED), "internal"),
    (StopIteration(PLANTED), "internal"),
    (ExceptionGroup(PLANTED, [ValueError(PLANTED)]), "internal"),
    (type(PLANTED.replace("/", "_"), (Exception,), {})(PLANTED), "internal"),
    (chained(), "internal"),
]


@pytest.mark.parametrize(("error", "code"), ERRORS, ids=lambda v: type(v).__name__)
def test_only_the_code_of_an_exception_leaves(monkeypatch, a_site, error, code):
    failing(monkeypatch, error)
    content = answer(a_task())
    assert code_of(content) == code
    for word in (PLANTED, "SMITH", "9434765919", "/srv"):
        assert word.encode() not in everything(content)


def test_an_exception_whose_text_fails_is_internal(monkeypatch, a_site):
    failing(monkeypatch, Odd())
    # Python's logging writes its own failures to stderr, which stays at the site.
    assert code_of(answer(a_task())) == "internal"


@pytest.mark.parametrize("code", sorted(SITE_ERROR_CODES))
def test_a_sites_own_refusal_keeps_its_code(monkeypatch, a_site, code):
    failing(monkeypatch, SiteError(code))
    assert code_of(answer(a_task())) == code


@given(
    st.text(min_size=12, max_size=60), st.sampled_from([ValueError, OSError, DataError, KeyError])
)
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_text_of_any_exception_leaves(monkeypatch, a_site, text, kind):
    failing(monkeypatch, kind(text))
    content = answer(a_task())
    assert code_of(content) in SITE_ERROR_CODES
    assert dict(content[REFUSAL]) == {"code": "data" if kind is DataError else "internal"}


def test_the_reason_stays_in_the_sites_own_log(monkeypatch, a_site, caplog):
    failing(monkeypatch, DataError(f"row 7: {PLANTED}"))
    answer(a_task())
    assert PLANTED in caplog.text


def test_a_site_without_a_configuration_answers_with_a_code(monkeypatch):
    monkeypatch.delenv("SITE_CONFIG", raising=False)
    assert code_of(answer(a_task())) == "config"


def test_a_site_whose_configuration_names_a_missing_file(monkeypatch, tmp_path):
    monkeypatch.setenv("SITE_CONFIG", str(tmp_path / "SMITH_JOHN" / "site.yaml"))
    content = answer(a_task())
    assert code_of(content) == "config"
    assert b"SMITH" not in everything(content)


def test_a_wrong_setting_is_one_line_of_the_log_with_the_next_step(monkeypatch, tmp_path, caplog):
    """A delta above 1 / patients, as an administrator mistypes it."""
    monkeypatch.setenv("SITE_CONFIG", str(hospital(tmp_path, delta=0.5)))
    assert code_of(answer(a_task())) == "config"
    (line,) = [r for r in caplog.records if r.name == "cardionets.site"]
    assert line.exc_info is None and "\n" not in line.getMessage()
    assert "privacy.delta is 0.5" in line.getMessage()
    assert "Set privacy.delta to 1e-05 or less" in line.getMessage()


@pytest.mark.parametrize(
    "content",
    [
        RecordDict({}),
        RecordDict({"config": ConfigRecord({"header": "[]", "manifest": "{}"})}),
        RecordDict({"refusal": ConfigRecord({"code": "internal"})}),
    ],
)
def test_a_message_that_is_no_task_is_answered_with_wire(a_site, content):
    assert code_of(answer(content)) == "wire"


def test_an_installation_that_is_broken_does_not_speak(monkeypatch):
    """The import of the training code stands inside the wall."""
    import sys

    monkeypatch.setitem(sys.modules, "client.local_training", None)
    assert code_of(answer(a_task())) == "internal"


def test_an_update_leaves_as_it_is(monkeypatch, a_site):
    update = Update("a", "run-1", "ecg_masked", 1, 10, metrics={"train_loss": 0.5})
    update = Update(**vars(update) | {"delta": {"p": {"w": np.ones(3, dtype=np.float32)}}})
    monkeypatch.setattr(client.local_training, "serve", lambda task, site: update)
    got = update_from_records(answer(a_task()))
    assert got.metrics == {"train_loss": 0.5} and got.delta["p"]["w"].tolist() == [1, 1, 1]


def test_an_answer_that_cannot_be_packed_is_a_code(monkeypatch, a_site):
    wrong = Update("a", "r", "t", 1, delta={"p": {PLANTED: np.ones(3, dtype=np.float16)}})
    monkeypatch.setattr(client.local_training, "serve", lambda task, site: wrong)
    content = answer(a_task())
    assert code_of(content) == "wire"
    assert PLANTED.encode() not in everything(content)


@pytest.mark.parametrize("kind", ["query", "train", "evaluate"])
def test_flower_gets_a_reply_and_never_an_exception(monkeypatch, a_site, kind):
    failing(monkeypatch, OSError(PLANTED))
    with task_identity(run_id=1, node_id=1):
        message = Message(a_task(), dst_node_id=2, message_type=kind, ttl=10)
        stamp_message_id(message, "m1")
        reply = app(as_delivered(message), Context(1, 2, {}, RecordDict(), {}))
    assert not reply.has_error()
    assert code_of(reply.content) == "internal"
    assert PLANTED.encode() not in everything(reply.content) + repr(reply.metadata).encode()
