"""A SuperNode's own state and store: a reply that its app broke off becomes an error."""

from __future__ import annotations

import threading

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supernode import start_client_internal
from flwr.supernode.nodestate import NodeStateFactory

from cardionets_core.flower_compat import LOST_CODES, task_identity
from cardionets_core.flower_site import WholeReplies

RUN, NODE = 5, 7


@pytest.fixture
def node():
    """The state and the store of a SuperNode that has a task, and the reply that is announced."""
    stores = ObjectStoreFactory()
    state, store = NodeStateFactory(objectstore_factory=stores).state(), stores.store()
    with task_identity(run_id=RUN, node_id=NODE):
        task = Message(RecordDict({"t": ConfigRecord({"k": 1})}), NODE, "train")
        start_client_internal._insert_message(task, state, store)
        state.get_messages_legacy(is_reply=False)  # its app has taken it
        reply = Message(RecordDict({"r": ConfigRecord({"k": 2})}), reply_to=task)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        state.store_message(reply)
        store.preregister(RUN, get_object_tree(reply))
        yield state, store, task, reply


def pieces(reply):
    return list(get_all_nested_objects(reply).items())


def test_a_whole_reply_is_handed_on_as_soon_as_its_last_piece_is_there(node):
    state, store, _, reply = node
    *first, (name, last) = pieces(reply)
    for key, piece in first:
        store.put(key, piece.deflate())
    threading.Timer(0.2, store.put, (name, last.deflate())).start()
    (found,) = WholeReplies(state, store, stalled_s=60.0).get_messages_legacy(is_reply=True)
    assert found.metadata.message_id == reply.metadata.message_id and not found.has_error()
    assert store.get(name) == last.deflate()


def test_a_broken_reply_becomes_the_error_of_a_killed_app(node):
    state, store, task, reply = node
    name, piece = pieces(reply)[0]
    store.put(name, piece.deflate())
    whole = WholeReplies(state, store, stalled_s=0.1)
    assert whole.get_messages_legacy(is_reply=True) == []
    (error,) = whole.get_messages_legacy(is_reply=True)
    assert error.error.code in LOST_CODES  # so that the server asks the site again
    assert error.metadata.reply_to_message_id == task.metadata.message_id
    assert store.get(reply.metadata.message_id) is None
    assert all(store.get(key) for key in get_all_nested_objects(error))
    assert whole.get_messages_legacy(is_reply=True) == []


def test_the_rest_of_the_state_is_flowers(node):
    state, store, *_ = node
    whole = WholeReplies(state, store)
    assert whole.delete_messages == state.delete_messages
    assert whole.get_messages_legacy(is_reply=False) == []
