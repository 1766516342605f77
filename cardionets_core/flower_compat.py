"""Every place where CardioNets touches something of Flower that Flower does not document.

Flower releases every two weeks and moves what it calls private; `pyproject.toml` therefore pins one
version, and `tests/architecture/test_flower_contract.py` fails when a new one moves what is used
here. Nothing else in the project may import from `flwr.supercore`, `flwr.common`, `flwr.proto`,
`flwr.cli`, `flwr.superlink`, `flwr.supernode` or `flwr.simulation`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.app.message import make_message
from flwr.cli.build import build_fab_from_disk
from flwr.common.config import get_fused_config_from_dir
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

if TYPE_CHECKING:
    from flwr.supercore.inflatable.inflatable_object import InflatableObject
    from flwr.supernode.nodestate import NodeState

__all__ = [
    "CLIENT_APP_RAISED",
    "FLOWER_VERSION",
    "LOST_CODES",
    "NodeInfo",
    "ResumedUpload",
    "Run",
    "Scalars",
    "TaskIdentity",
    "around_upload",
    "as_delivered",
    "build_bundle",
    "client_app_program",
    "copy_records",
    "empty_run",
    "engine_lost",
    "fuse_run_config",
    "keep_task_input",
    "online_node",
    "raised_reply",
    "run_supernode",
    "server_app_program",
    "stamp_message_id",
    "task_identity",
]

FLOWER_VERSION = "1.41.0"
"""The version that this module was written against and is tested with."""

CLIENT_APP_RAISED = int(ErrorCode.CLIENT_APP_RAISED_EXCEPTION)
"""Code of an error reply when the ClientApp raised (2)."""

LOST_CODES = frozenset(
    int(code)
    for code in (
        ErrorCode.MESSAGE_UNAVAILABLE,
        ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
        ErrorCode.NODE_UNAVAILABLE,
        ErrorCode.CLIENT_APP_CRASHED,
    )
)
"""Codes of error replies that the engine makes when a message, a reply, a node or a ClientApp's
process was lost (3, 4, 5, 8). The other codes are answers of a site that could not serve."""

STALLED_S = 30.0
"""Seconds without a new piece after which a reply counts as broken; one takes a second at most."""

PIECE_LOOK_S = 0.05

PUSH_TRIES = 5
"""How often an object of a reply is announced again before its upload fails."""

Scalars = Mapping[str, str | int | float | bool]


@contextmanager
def task_identity(*, run_id: int, node_id: int, task_id: int = 1) -> Iterator[None]:
    """Make this process look like a Flower task, which `Message(...)` asks for.

    Flower keeps the identity in class attributes that its own runners set; without them the public
    constructor of a message raises. The former identity is put back at the end.

    Args:
        run_id: id of the run, stamped on new messages.
        node_id: id of the sender, stamped on new messages.
        task_id: id of the task, stamped on new messages.
    """
    before = (TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, node_id, task_id
    try:
        yield
    finally:
        TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id = before


def stamp_message_id(message: Message, message_id: str) -> None:
    """Set the id of a message, which only Flower's transport does otherwise."""
    message.metadata.__dict__["_message_id"] = message_id


def as_delivered(message: Message) -> Message:
    """Return the message as its receiver sees it: own records, so changes do not travel back."""
    return make_message(metadata=message.metadata, content=copy_records(message.content))


def copy_records(content: RecordDict) -> RecordDict:
    """Copy a record dict and its records; array buffers are immutable and stay shared."""
    copied: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {}
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            copied[name] = ArrayRecord(dict(record))
        elif isinstance(record, MetricRecord):
            copied[name] = MetricRecord(dict(record))
        else:
            copied[name] = ConfigRecord(dict(record))
    return RecordDict(copied)


def raised_reply(failure: Exception, *, reply_to: Message) -> Message:
    """Return the reply that Flower sends for a ClientApp that raised, text included."""
    reason = f"{type(failure)}:<'{failure}'>"
    return Message(Error(code=CLIENT_APP_RAISED, reason=reason), reply_to=reply_to)


def empty_run(run_id: int) -> Run:
    """Return Flower's description of a run that no SuperLink knows."""
    return Run.create_empty(run_id)


def online_node(node_id: int) -> NodeInfo:
    """Return a node as `Grid.get_nodes` lists it when nodes bring no keys: without a name."""
    return NodeInfo(node_id=node_id, status="online")


def fuse_run_config(bundle: Path, overrides: Scalars) -> dict[str, str | int | float | bool]:
    """Return the bundle's default run config with overrides; an unknown key raises ValueError."""
    return dict(get_fused_config_from_dir(bundle, dict(overrides)))


def build_bundle(folder: Path) -> bytes:
    """Return the app bundle (FAB) that `flwr run` would ship from this folder."""
    return bytes(build_fab_from_disk(folder))


def client_app_program() -> Callable[[], None]:
    """Import and return what `flwr-clientapp` runs: it reads sys.argv, leaves by SystemExit."""
    from flwr.supernode.cli import flwr_clientapp

    return flwr_clientapp


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


def server_app_program() -> Callable[[], None]:
    """Import and return what `flwr-serverapp` runs: it reads sys.argv, leaves by SystemExit."""
    from flwr.superlink.cli import flwr_serverapp

    return flwr_serverapp


def engine_lost(error: BaseException) -> bool:
    """Return whether an error of the Grid means that Flower has given our Flower run up.

    The SuperLink was away for more than a minute, or the run was stopped.
    """
    from flwr.supercore.run import RunNotRunningException
    from httpx import HTTPError

    return isinstance(error, (RunNotRunningException, HTTPError))


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
    list of the objects that are still missing: those alone are sent.

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
                self._missing, self._session = self._send(*self._reply)
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
