"""Plain Flower's own strategies over replies that were made here: no process, the same code.

What a strategy does with a set of replies does not depend on how they came, so attacks, orders and
memory are tried on `aggregate_train` itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from cardionets_core.flower_compat import raised_reply, task_identity
from simulations.faults.silence import silenced

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cardionets_core.messages import Update

Named = Mapping[str, "NDArray[Any]"]
SERVER, RUN = 1, 1


def reply(arrays: Named, num_examples: int, *, node: int = 2) -> Message:
    """Return a node's reply to a training message, as a plain ClientApp makes it."""
    content = RecordDict(
        {
            "arrays": ArrayRecord({k: Array(np.asarray(v)) for k, v in arrays.items()}),
            "metrics": MetricRecord({"num-examples": num_examples}),
        }
    )
    with task_identity(run_id=RUN, node_id=node):
        return Message(content, reply_to=_asked(node))


def error_reply(*, node: int = 2) -> Message:
    """Return what Flower hands over for a node whose ClientApp raised, or which is gone."""
    return raised_reply(RuntimeError("gone"), reply_to=_asked(node))


def _asked(node: int) -> Message:
    with task_identity(run_id=RUN, node_id=SERVER):
        return Message(RecordDict(), dst_node_id=node, message_type="train")


def flat(update: Update) -> dict[str, NDArray[Any]]:
    """Return an update's arrays under `part.name`, as the keys of a state dict."""
    return {f"{p}.{n}": a for p, arrays in update.delta.items() for n, a in arrays.items()}


def average(
    replies: Sequence[Message], strategy: FedAvg | None = None
) -> dict[str, NDArray[Any]] | None:
    """Return what a strategy of Flower makes of the replies; None where it makes nothing.

    Raises:
        Exception: whatever the strategy raises; in a run of Flower that ends the run.
    """
    with silenced("flwr"), np.errstate(all="ignore"):
        arrays, _ = (strategy or FedAvg()).aggregate_train(1, list(replies))
    return None if arrays is None else {k: a.numpy() for k, a in arrays.items()}
