"""A handshake over a Grid that plays what each node says of itself."""

from __future__ import annotations

import numpy as np
from flwr.app import Message

from cardionets_core.flower_compat import NodeInfo, stamp_message_id
from cardionets_core.messages import Update, refusal, update_to_records
from cardionets_core.model_config import ModelConfig
from cardionets_core.run_config import RunConfig
from server.exchange import Run
from server.handshake import greet
from server.state import RunState

CONFIG = RunConfig(
    name="run-1",
    seed=3,
    model=ModelConfig(),
    stages=("handshake",),
    stage={},
    phenotypes=("lv_edv", "lv_ef"),
    diseases=(),
    wait_s=0.0,
    rejoin_s=0.0,
)


class Nodes:
    """A Grid of which node 100 + i gives the i-th answer: an update, None for a refusal.

    `silent` nodes never answer; `names` and `keys` are as Flower has registered the nodes.
    """

    def __init__(self, answers, *, names=None, keys=None, silent=()):
        self.answers = {100 + i: answer for i, answer in enumerate(answers)}
        self.names, self.keys, self.silent = names or {}, keys or {}, set(silent)
        self.offline = set()
        self.greeted = []
        self._open = {}

    def get_nodes(self):
        return [
            NodeInfo(node_id=n, name=self.names.get(n, ""), public_key=self.keys.get(n, b""))
            for n in self.answers
            if n not in self.offline
        ]

    def push_messages(self, messages):
        (message,) = messages
        message_id = f"m{len(self.greeted)}"
        stamp_message_id(message, message_id)
        self.greeted.append(message.metadata.dst_node_id)
        self._open[message_id] = message
        return [message_id]

    def pull_messages(self, message_ids):
        (message_id,) = message_ids
        message = self._open[message_id]
        node = message.metadata.dst_node_id
        if node in self.silent:
            return []
        del self._open[message_id]
        answer = self.answers[node]
        content = refusal("data") if answer is None else update_to_records(answer)
        return [Message(content, reply_to=message)]


def described(site, values, modalities=("ecg", "phenotypes")):
    """Return what a site says whose training patients have these phenotypes, [n, 2]."""
    values = np.asarray(values, dtype=np.float64)
    sums = {
        "phenotype_n": np.isfinite(values).sum(0).astype(np.float64),
        "phenotype_sum": np.nansum(values, axis=0),
        "phenotype_square": np.nansum(values**2, axis=0),
    }
    counts = {"patients": len(values), "train_studies": len(values)}
    return Update(site, "run-1", "handshake", 1, counts=counts, modalities=modalities, sums=sums)


def play(answers, *, state=None, config=CONFIG, **nodes):
    """Greet nodes of which the i-th gives the i-th answer (None: it refuses)."""
    records = []
    run = Run(Nodes(answers, **nodes), config, None, records.append)
    return greet(run, state or RunState({})), run, records
