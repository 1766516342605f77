"""A round over a Grid that plays every kind of site, and one without any Grid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from flwr.app import Error, Message

from cardionets_core.flower_compat import NodeInfo, stamp_message_id
from cardionets_core.messages import Task, Update, task_from_records, update_to_records
from server.attendance import Attendance
from server.rounds import RoundResult, run_round
from tests.task_header import task_header

HEADER = task_header()
WEIGHTS = {"ecg_encoder": {"w": np.ones(4, dtype=np.float32)}}


class HandClock:
    """Seconds that pass only where somebody sleeps: no round depends on how busy a machine is."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class FakeGrid:
    """Answers as `sites` say: node -> function of (task, times asked) that gives the reply.

    A function that returns None has not answered yet and is asked again at the next pull.
    """

    def __init__(self, sites):
        self.sites = sites
        self.pushed = []
        self.asked = {}
        self.online = dict.fromkeys(sites, "")
        self._open = {}

    def get_nodes(self):
        return [NodeInfo(node_id=n, last_activated_at=since) for n, since in self.online.items()]

    def push_messages(self, messages):
        ids = []
        for message in messages:
            message_id = f"m{len(self.pushed)}"
            stamp_message_id(message, message_id)
            self.pushed.append(message)
            self._open[message_id] = message
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids):
        replies = []
        for message_id in list(message_ids):
            message = self._open.get(message_id)
            if message is None:
                continue
            node = message.metadata.dst_node_id
            self.asked[node] = self.asked.get(node, 0) + 1
            content = self.sites[node](task_from_records(message.content), self.asked[node])
            if content is not None:
                del self._open[message_id]
                replies.append(Message(content, reply_to=message))
        return replies


def trained(site, patients=10, value=0.5, **more):
    delta = {"ecg_encoder": {"w": np.full(4, value, dtype=np.float32)}}
    return update_to_records(Update(site, "run-1", "ecg_masked", 1, patients, delta=delta, **more))


def good(site):
    return lambda task, asked: trained(site)


def task_for(site, lost, left_s):
    return Task(HEADER, WEIGHTS)


def answering(answers):
    """Return a stand-in for `send_round`, for tests of what goes on around it.

    Args:
        answers: (state, heads) -> site -> its update, or the code of why there is none; in the
            order of their arrival.
    """

    def send_round(run, state, heads, accept, deadline_s, extra=None, enough=None, **more):
        result = RoundResult()
        for site, answer in answers(state, heads).items():
            reason = answer if isinstance(answer, str) else accept(site, answer)
            if reason is None:
                result.accepted.append(site)
            else:
                result.refused[site] = reason
        result.accepted.sort()
        return result

    return send_round


def attend(grid, nodes, clock=None):
    """Return who is there at a grid, by a clock of their own."""
    clock = clock or HandClock()
    return Attendance(grid, nodes, clock=clock, sleep=clock.sleep)


def play(sites, *, accept=None, make_task=task_for, deadline_s=60.0, clock=None, **rest):
    """Run a round over `sites` (name -> behaviour) and return grid, result and updates."""
    nodes = {name: 100 + i for i, name in enumerate(sites)}
    grid = FakeGrid({nodes[n]: behaviour for n, behaviour in sites.items()})
    updates = {}

    def keep(site, update):
        updates[site] = update
        return None

    result = run_round(
        attend(grid, nodes, clock),
        nodes,
        make_task=make_task,
        accept=accept or keep,
        deadline_s=deadline_s,
        **rest,
    )
    return grid, result, updates


class Engine(FakeGrid):
    """Flower's habits with nodes that go and come; `plan` is called before every look.

    Asked for a reply of a node that is offline, it answers with error 5 and forgets the message.
    """

    def __init__(self, sites, plan=lambda engine, look: None):
        super().__init__(sites)
        self.plan = plan
        self.looks = 0
        self.pulled_offline = 0

    def get_nodes(self):
        self.looks += 1
        self.plan(self, self.looks)
        return super().get_nodes()

    def pull_messages(self, message_ids):
        (message_id,) = message_ids
        message = self._open.get(message_id)
        if message is not None and message.metadata.dst_node_id not in self.online:
            self.pulled_offline += 1
            del self._open[message_id]
            return [Message(Error(code=5, reason="node unavailable"), reply_to=message)]
        return super().pull_messages(message_ids)


def play_engine(
    sites, plan=lambda engine, look: None, *, nodes=None, greet=None, clock=None, **rest
):
    """Run a round; `sites` is node -> behaviour, and `nodes` site -> node."""
    engine = Engine(sites, plan)
    nodes = nodes or {n: 100 + i for i, n in enumerate("abc"[: len(sites)])}
    attendance = attend(engine, nodes, clock)
    if greet is not None:
        greeting = Task(replace(HEADER, stage="handshake", action="describe"))
        attendance.describe = lambda node: greeting
        attendance.welcome = lambda node, update: greet(attendance, node, update)
    updates, waited = [], []
    result = run_round(
        attendance,
        list(attendance.nodes),
        make_task=rest.pop("make_task", task_for),
        accept=lambda site, update: updates.append(site),
        deadline_s=rest.pop("deadline_s", 30.0),
        waiting=waited.append,
        **rest,
    )
    return engine, result, updates, waited
