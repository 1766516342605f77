"""What CardioNets changes in Flower's own processes at a site, none of which Flower documents.

Where a link is cut or a process killed, plain Flower loses a reply after minutes of training, or
waits for it for ever. Here an upload is resumed, a broken reply becomes an error, and a task whose
process was killed is begun again. `tests/architecture/test_flower_contract.py` holds what of Flower
must stay where it is.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from flwr.app import Error, Message
from flwr.common.constant import ErrorCode
from flwr.supercore.task_identity import TaskIdentity

if TYPE_CHECKING:
    from flwr.supercore.inflatable.inflatable_object import InflatableObject
    from flwr.supernode.nodestate import NodeState

__all__ = ["ResumedUpload", "WholeReplies", "around_upload", "keep_task_input", "run_supernode"]

STALLED_S = 30.0
"""Seconds without a new piece after which a reply counts as broken; one takes a second at most."""

PIECE_LOOK_S = 0.05

PUSH_TRIES = 5
"""How often an object of a reply is announced again before its upload fails."""


def around_upload(*, within: Callable[[], None], after: Callable[[], None]) -> None:
    """Have this process of a ClientApp call functions while and after it hands over its reply.

    Args:
        within: called when a part is at its SuperNode, which was told of the reply and waits for
            the rest.
        after: called when the SuperNode has acknowledged all of it.
    """
    from flwr.supernode.runtime import run_clientapp

    push_objects = vars(run_clientapp)["push_objects"]

    def push_and_tell(
        objects: dict[str, InflatableObject],
        push_object: Callable[[str, bytes], None],
        **limits: Any,
    ) -> None:
        def push_one(name: str, content: bytes) -> None:
            push_object(name, content)
            within()

        push_objects(objects, push_one, **limits)
        after()

    vars(run_clientapp)["push_objects"] = push_and_tell


def keep_task_input(kept: int) -> None:
    """Let a task whose process is killed be begun again, by another process with the same token.

    A SuperNode hands out the input of a task once. So it is kept in `kept` while the app works on
    it, and taken from there where it already lies. Once the reply travels it is dropped: then
    a second start would answer twice.

    Args:
        kept: descriptor of a file in memory, empty before the first start. Its first 8 bytes are
            the length of the first part, written last; 0: nothing whole is kept.
    """
    from flwr.common import serde
    from flwr.proto.message_pb2 import Message as MessageProto
    from flwr.proto.runtime_pb2 import PullTaskInputResponse
    from flwr.supernode.runtime import run_clientapp

    pull, push = run_clientapp.pull_task_input, run_clientapp.push_message

    def pull_or_take(client: Any) -> tuple[Any, ...]:
        first = int.from_bytes(os.pread(kept, 8, 0), "big")
        return take(first) if first else keep(pull(client))

    def keep(given: tuple[Any, ...]) -> tuple[Any, ...]:
        message, context, run, fab = given
        head = PullTaskInputResponse(
            context=serde.context_to_proto(context),
            run=serde.run_to_proto(run),
            fab=serde.fab_to_proto(fab),
            task_id=TaskIdentity.task_id,
        ).SerializeToString()
        with open(os.dup(kept), "wb") as file:
            file.write(bytes(8) + head)
            file.write(serde.message_to_proto(message).SerializeToString())
        os.pwrite(kept, len(head).to_bytes(8, "big"), 0)
        return given

    def take(first: int) -> tuple[Any, ...]:
        with open(os.dup(kept), "rb") as file:
            file.seek(8)
            head = PullTaskInputResponse.FromString(file.read(first))
            message = serde.message_from_proto(MessageProto.FromString(file.read()))
        context, run = serde.context_from_proto(head.context), serde.run_from_proto(head.run)
        TaskIdentity.task_id, TaskIdentity.run_id = head.task_id, run.run_id
        TaskIdentity.node_id = context.node_id
        return message, context, run, serde.fab_from_proto(head.fab)

    def drop_and_push(client: Any, message: Message, context: Any) -> None:
        os.ftruncate(kept, 0)
        push(client, message, context)

    vars(run_clientapp).update(pull_task_input=pull_or_take, push_message=drop_and_push)


class _ShortSleeps:
    """Stands in for the `time` module in Flower's SuperNode loop; only the pauses are shorter."""

    def __init__(self, longest: float) -> None:
        self._longest = longest

    def sleep(self, seconds: float) -> None:
        time.sleep(min(seconds, self._longest))


class ResumedUpload:
    """Sends one reply of a SuperNode, also where the link goes while an object is under way.

    The SuperNode asks again for an object whose answer was lost; the SuperLink may hold it already
    and then says no, at which plain Flower drops the whole reply, after minutes of training, and
    lets the SuperLink wait 180 s for the rest. Announced again, a reply gets a new session and the
    list of the objects that are still missing: those alone are sent. Where none is named, the
    object in hand has arrived, and the others go on in the session that they are in.

    Args:
        send: Flower's function that announces a reply.
        push: Flower's function that sends an object of it.
    """

    def __init__(
        self, send: Callable[..., tuple[set[str], str]], push: Callable[..., None]
    ) -> None:
        self._send, self._push = send, push
        self._lock = threading.Lock()
        self._reply: tuple[Any, ...] = ()
        self._session = ""
        self._missing: set[str] = set()

    def send(self, message: Message, tree: Any, seconds: float) -> tuple[set[str], str]:
        """Announce a reply and return the objects that the SuperLink lacks, and its session."""
        # The seconds are added up at the SuperLink, and must be so once.
        self._reply = (message, tree, 0.0)
        self._missing, self._session = self._send(message, tree, seconds)
        return self._missing, self._session

    def push(self, run_id: int, _session: str, object_id: str, content: bytes) -> None:
        """Send an object until the SuperLink has it.

        Raises:
            ObjectPushError: Flower's; the SuperLink refuses it in every session.
        """
        from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

        for _ in range(PUSH_TRIES):
            session = self._session
            try:
                return self._push(run_id, session, object_id, content)
            except ObjectPushError:
                if object_id not in self._announced_again(session):
                    return None
        return self._push(run_id, self._session, object_id, content)

    def _announced_again(self, refused: str) -> set[str]:
        with self._lock:
            # Two objects are under way at a time: the other one may have been here first.
            if refused == self._session:
                self._missing, session = self._send(*self._reply)
                # A reply that the server has begun to fetch cannot be announced again: the answer
                # is an empty list and a session that takes nothing. The one before goes on.
                if self._missing:
                    self._session = session
            return self._missing


class WholeReplies:
    """The state of a SuperNode, from which only replies come that their app has handed over whole.

    An app announces its reply and then hands it over in pieces. Where it is killed in between,
    plain Flower waits for the rest for ever: the node stays online and never answers again. Here
    the server is told what it is told of any killed app, and can ask again.

    Args:
        state: Flower's; everything else is passed on to it.
        objects: its store of pieces.
        stalled_s: seconds without a new piece after which the app counts as killed.
    """

    def __init__(self, state: Any, objects: Any, stalled_s: float = STALLED_S) -> None:
        self._state, self._objects, self._stalled_s = state, objects, stalled_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)

    def get_messages_legacy(self, **which: Any) -> list[Message]:
        """Return the messages that Flower's state returns, broken replies left out."""
        return [m for m in self._state.get_messages_legacy(**which) if self._whole(m)]

    def _whole(self, reply: Message) -> bool:
        from flwr.supercore.inflatable.inflatable_object import iterate_object_tree

        tree = self._objects.get_object_tree(reply.metadata.message_id)
        missing = {piece.object_id for piece in iterate_object_tree(tree)}
        deadline = time.monotonic() + self._stalled_s
        while left := {name for name in missing if self._objects.get(name) == b""}:
            if left != missing:
                missing, deadline = left, time.monotonic() + self._stalled_s
            if time.monotonic() > deadline:
                self._replace(reply)
                return False
            time.sleep(PIECE_LOOK_S)
        return True

    def _replace(self, reply: Message) -> None:
        """Put the error of a killed app in the place of a reply; it is found at the next look."""
        from flwr.supernode import start_client_internal

        asked = self._state.msg_store[reply.metadata.reply_to_message_id].message
        self._state.delete_messages(message_ids=[reply.metadata.message_id])
        self._objects.delete(reply.metadata.message_id)
        error = Error(int(ErrorCode.CLIENT_APP_CRASHED), "ClientApp stopped within its reply.")
        crashed = Message(error, reply_to=asked)
        start_client_internal._insert_message(crashed, self._state, self._objects)


def run_supernode(longest_pause: float) -> None:
    """Run `flower-supernode` (arguments in sys.argv) so that cut uploads are resumed.

    A reply that its app did not hand over whole is replaced by an error.

    Args:
        longest_pause: seconds after which it asks for messages, at most; Flower's own are 3.
    """
    from flwr.supernode import start_client_internal
    from flwr.supernode.cli import flower_supernode

    push_messages = start_client_internal._push_messages

    def push_resumed(*, state: Any, object_store: Any, send: Any, push_object: Any) -> None:
        upload, replies = ResumedUpload(send, push_object), WholeReplies(state, object_store)
        push_messages(
            state=cast("NodeState", replies),
            object_store=object_store,
            send=upload.send,
            push_object=upload.push,
        )

    changed = {"time": _ShortSleeps(longest_pause), "_push_messages": push_resumed}
    vars(start_client_internal).update(changed)
    flower_supernode()
