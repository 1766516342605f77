"""The ServerApp: Flower's FedAvg. What is added writes down when things happen, nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from plain_flower.task import load_plan, new_model, note, state_dict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flwr.app import Message, MetricRecord

app = ServerApp()


class TimedFedAvg(FedAvg):
    """FedAvg that notes the time at each of its own steps."""

    def __init__(self, record: str, **settings: Any) -> None:
        super().__init__(**settings)
        self._record = record

    def configure_train(self, server_round: int, *args: Any, **more: Any) -> Iterable[Message]:
        """Note that a round begins."""
        note(self._record, "train_sent", round=server_round)
        return super().configure_train(server_round, *args, **more)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Note who answered, and how long the average took."""
        replies = list(replies)
        good = [m.metadata.src_node_id for m in replies if not m.has_error()]
        note(self._record, "train_back", round=server_round, nodes=good, asked=len(replies))
        result = super().aggregate_train(server_round, replies)
        note(self._record, "aggregated", round=server_round)
        return result

    def configure_evaluate(self, server_round: int, *args: Any, **more: Any) -> Iterable[Message]:
        """Note that evaluation begins."""
        note(self._record, "evaluate_sent", round=server_round)
        return super().configure_evaluate(server_round, *args, **more)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Note that the round is over."""
        result = super().aggregate_evaluate(server_round, replies)
        note(self._record, "round_done", round=server_round)
        return result


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Average for `num-rounds` rounds."""
    settings = context.run_config
    record, nodes = str(settings["record"]), int(settings["min-nodes"])
    note(record, "started")
    model = new_model(load_plan(str(settings["plan"])))
    strategy = TimedFedAvg(
        record, min_train_nodes=nodes, min_evaluate_nodes=nodes, min_available_nodes=nodes
    )
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(state_dict(model, str(settings["stage"]))),
        num_rounds=int(settings["num-rounds"]),
    )
    note(record, "ended")
