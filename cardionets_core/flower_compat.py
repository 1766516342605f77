"""What CardioNets uses of Flower that Flower does not document; flower_site.py changes some of it.

Flower releases every two weeks and moves what it calls private; `pyproject.toml` therefore pins one
version, and `tests/architecture/test_flower_contract.py` fails when a new one moves what these two
use. No other module may import from `flwr.supercore`, `flwr.common`, `flwr.proto`, `flwr.cli`,
`flwr.superlink`, `flwr.supernode` or `flwr.simulation`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.app.message import make_message
from flwr.cli.build import build_fab_from_disk
from flwr.common.config import get_fused_config_from_dir
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = [
    "CLIENT_APP_RAISED",
    "FLOWER_VERSION",
    "LOST_CODES",
    "NodeInfo",
    "Run",
    "Scalars",
    "TaskIdentity",
    "as_delivered",
    "build_bundle",
    "client_app_program",
    "copy_records",
    "empty_run",
    "engine_lost",
    "fuse_run_config",
    "online_node",
    "raised_reply",
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
