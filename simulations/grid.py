"""engine=inprocess: the same two apps, one process, no network.

`InProcessGrid` stands in for Flower's Grid: a message to a node is answered by calling the
ClientApp object here, with that site's `SITE_CONFIG` in the environment. Rounds take milliseconds
instead of seconds, exceptions keep their traceback, and the server's main function cannot tell the
difference.

What it does not imitate: time-to-live, lost nodes and parallel sites. Sites run one after another.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from cardionets_core.environment import variables
from cardionets_core.errors import ConfigError, EngineError
from cardionets_core.flower_compat import (
    NodeInfo,
    Run,
    Scalars,
    as_delivered,
    empty_run,
    fuse_run_config,
    online_node,
    raised_reply,
    stamp_message_id,
    task_identity,
)
from server.launch import REPORT_ENV, REPORT_LATER

SERVER_NODE_ID = 1
"""Flower's own id for the SuperLink's side."""

Overhear = Callable[[str, RecordDict, RecordDict], None]

_log = logging.getLogger(__name__)


class InProcessGrid(Grid):
    """A Grid whose nodes are the sites of one process.

    A message is worked on when its reply is first asked for, so a server that pulls replies one by
    one holds one reply at a time, as it does over the network.

    Args:
        client_app: the ClientApp object that every site runs.
        sites: site name -> the site's YAML file; nodes are numbered in this order from 2.
        run_config: the fused run config, handed to every site's context.
        run_id: id of the run.
        overhear: told of every answer before the server gets it: the site's name, the contents of
            its task and of its reply.
    """

    def __init__(
        self,
        client_app: ClientApp,
        sites: Mapping[str, Path],
        *,
        run_config: Scalars | None = None,
        run_id: int = 1,
        overhear: Overhear | None = None,
    ) -> None:
        self._client_app = client_app
        self._overhear = overhear
        self._run = empty_run(run_id)
        self._pending: dict[str, Message] = {}
        self._sent = 0
        self._sites = dict(enumerate(sites.values(), start=SERVER_NODE_ID + 1))
        self._contexts = {
            node: Context(run_id, node, {}, RecordDict(), dict(run_config or {}))
            for node in self._sites
        }
        self.names = dict(enumerate(sites, start=SERVER_NODE_ID + 1))
        self.failures: list[tuple[str, Exception]] = []

    def set_run(self, run: Run) -> None:
        """Set the run that messages belong to."""
        self._run = run

    @property
    def run(self) -> Run:
        """Flower's description of the run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message (Flower keeps this beside the constructor for old code)."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Return the ids of all sites, in the order in which they were given."""
        return list(self._sites)

    def get_nodes(self) -> list[NodeInfo]:
        """Return all sites as Flower lists nodes without keys: ids, no names."""
        return [online_node(node) for node in self._sites]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Queue messages and return their ids, in order."""
        ids = []
        for message in messages:
            if message.metadata.dst_node_id not in self._sites:
                raise EngineError(
                    f"a message is addressed to node {message.metadata.dst_node_id}, but this grid "
                    f"has {list(self._sites)}; take node ids from get_nodes()"
                )
            self._sent += 1
            message_id = f"in-process-{self._sent}"
            stamp_message_id(message, message_id)
            self._pending[message_id] = message
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Let the sites answer these messages and return the replies; each comes once."""
        return [self._answer(i) for i in list(message_ids) if i in self._pending]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Push messages and return all replies; `timeout` has no meaning here."""
        return self.pull_messages(self.push_messages(messages))

    def _answer(self, message_id: str) -> Message:
        message = self._pending.pop(message_id)
        node = message.metadata.dst_node_id
        with task_identity(run_id=self._run.run_id, node_id=node), _site_config(self._sites[node]):
            try:
                reply = self._client_app(as_delivered(message), self._contexts[node])
            # The wall of a site: Flower, too, turns whatever the app raises into a reply.
            except Exception as failure:
                _log.error("the client app of %s failed", self.names[node], exc_info=failure)
                self.failures.append((self.names[node], failure))
                reply = raised_reply(failure, reply_to=message)
        if self._overhear is not None and reply.has_content():
            self._overhear(self.names[node], message.content, reply.content)
        stamp_message_id(reply, f"reply-to-{message_id}")
        return reply


def run_in_process(
    server_app: ServerApp,
    client_app: ClientApp,
    *,
    run_config: Scalars,
    sites: Mapping[str, Path],
    bundle: Path | None = None,
    outputs: Path | None = None,
    run_id: int = 1,
    overhear: Overhear | None = None,
) -> Context:
    """Run a whole federation in this process; what the ServerApp raises comes out as it is.

    Args:
        server_app: the ServerApp object; its main function gets (grid, context) as under Flower.
        client_app: the ClientApp object of all sites.
        run_config: flat scalars, as for `flwr run --run-config`.
        sites: site name -> the site's YAML file.
        bundle: folder of the bundle; its defaults are added and unknown keys are refused.
        outputs: folder of all runs, seen by the apps as `CARDIONETS_OUTPUTS`.
        run_id: id of the run.
        overhear: see InProcessGrid.

    Returns:
        The ServerApp's context.

    Raises:
        ConfigError: no site, or a key that the bundle does not declare.
    """
    if not sites:
        raise ConfigError("a federation needs at least one site; name site files to simulate")
    config = dict(run_config) if bundle is None else _fuse(bundle, run_config)
    context = Context(run_id, SERVER_NODE_ID, {}, RecordDict(), config)
    grid = InProcessGrid(client_app, sites, run_config=config, run_id=run_id, overhear=overhear)
    settings = {REPORT_ENV: REPORT_LATER}
    if outputs is not None:
        settings["CARDIONETS_OUTPUTS"] = str(outputs)
    with task_identity(run_id=run_id, node_id=SERVER_NODE_ID), variables(settings):
        server_app(grid, context)
    return context


def _fuse(bundle: Path, run_config: Scalars) -> dict[str, str | int | float | bool]:
    try:
        return fuse_run_config(bundle, run_config)
    except ValueError as refused:
        raise ConfigError(
            f"run config: {refused}; the bundle {bundle} lists the allowed keys"
        ) from refused


def _site_config(path: Path) -> AbstractContextManager[None]:
    return variables({"SITE_CONFIG": str(path)})
