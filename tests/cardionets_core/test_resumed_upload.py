"""A reply whose upload was cut is announced again, and only what is missing is sent."""

from __future__ import annotations

import inspect

import pytest
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError
from flwr.supernode import start_client_internal

from cardionets_core.flower_site import PUSH_TRIES, ResumedUpload

OBJECTS = ("a", "b", "c")


class Superlink:
    """Takes objects as Flower's does: only in the newest session, and each once."""

    def __init__(self):
        self.session = 0
        self.held: dict[str, bytes] = {}
        self.announced: list[float] = []
        self.closed = self.fetched = False

    def send(self, message, tree, seconds):
        if self.fetched:  # the server has the reply's name, and Flower has forgotten it
            self.announced.append(seconds)
            return set(), "a session that takes nothing"
        self.session += 1
        self.announced.append(seconds)
        return set(OBJECTS) - set(self.held), str(self.session)

    def push(self, run_id, session, object_id, content):
        if self.closed or session != str(self.session) or object_id in self.held:
            raise ObjectPushError(object_id, run_id, session)
        self.held[object_id] = content


def upload_of(superlink):
    upload = ResumedUpload(superlink.send, superlink.push)
    missing, session = upload.send("message", "tree", 7.5)
    assert missing == set(OBJECTS)
    return upload, session


def test_an_object_that_had_arrived_is_not_sent_again():
    superlink = Superlink()
    upload, session = upload_of(superlink)
    upload.push(1, session, "a", b"a")
    superlink.held["b"] = b"b"  # it arrived, and the link went before the answer
    upload.push(1, session, "b", b"b")
    upload.push(1, session, "c", b"c")
    assert superlink.held == {"a": b"a", "b": b"b", "c": b"c"}
    assert superlink.announced == [7.5, 0.0]  # the training's seconds count once


def test_a_reply_that_is_being_fetched_goes_on_in_its_session():
    superlink = Superlink()
    upload, session = upload_of(superlink)
    superlink.fetched = True
    superlink.held["a"] = b"a"  # it arrived, and the link went before the answer
    for name in OBJECTS:
        upload.push(1, session, name, name.encode())
    assert superlink.held == {"a": b"a", "b": b"b", "c": b"c"}


def test_an_expired_session_is_renewed():
    superlink = Superlink()
    upload, session = upload_of(superlink)
    superlink.session += 1
    for name in OBJECTS:
        upload.push(1, session, name, name.encode())
    assert set(superlink.held) == set(OBJECTS) and len(superlink.announced) == 2


def test_a_superlink_that_takes_nothing_ends_the_upload():
    superlink = Superlink()
    upload, session = upload_of(superlink)
    superlink.closed = True
    with pytest.raises(ObjectPushError):
        upload.push(1, session, "a", b"a")
    assert len(superlink.announced) == 1 + PUSH_TRIES


def test_flowers_supernode_sends_replies_where_we_take_hold_of_them():
    """Keyword arguments, and `push_object` called with session and run before the object."""
    source = inspect.getsource(start_client_internal)
    assert list(inspect.signature(start_client_internal._push_messages).parameters) == [
        "state",
        "object_store",
        "send",
        "push_object",
    ]
    assert "_push_messages(\n                state=state," in source
    assert "push_object_fn=partial(push_object, run_id, session_id)" in source
    assert "send(message, object_tree, clientapp_runtime)" in source
