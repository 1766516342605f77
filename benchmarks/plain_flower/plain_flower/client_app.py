"""The ClientApp: load the weights, train, send the weights back."""

from __future__ import annotations

import os
import time
from pathlib import Path

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from plain_flower.task import Training, load_plan, note, state_dict

app = ClientApp()


def opened(message: Message, context: Context, kind: str) -> Training:
    """Open data and model and load the weights of the message."""
    settings = context.run_config
    number = int(message.content["config"]["server-round"])
    _note(context, f"{kind}_begun", number)
    training = Training(load_plan(str(settings["plan"])), str(settings["stage"]))
    arrays = message.content["arrays"].to_torch_state_dict()
    training.model.load_state_dict(arrays, strict=False)
    _note(context, f"{kind}_loaded", number)
    return training


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train a round."""
    training = opened(message, context, "train")
    number = int(message.content["config"]["server-round"])
    # Flower's own memory of a site: it must come back after a kill, or it is lost.
    done = int(context.state["done"]["rounds"]) if "done" in context.state else 0
    studies, loss = training.train(number)
    time.sleep(float(context.run_config["hold-s"]))
    context.state["done"] = MetricRecord({"rounds": done + 1})
    _note(context, "train_done", number, remembered=done)
    arrays = ArrayRecord(state_dict(training.model, str(context.run_config["stage"])))
    metrics = MetricRecord({"train_loss": loss, "num-examples": studies})
    _note(context, "train_packed", number)
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the new global model."""
    training = opened(message, context, "evaluate")
    studies, loss = training.evaluate()
    number = int(message.content["config"]["server-round"])
    _note(context, "evaluate_done", number)
    metrics = MetricRecord({"validation_loss": loss, "num-examples": max(studies, 1)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def _note(context: Context, step: str, number: int, **facts: int) -> None:
    site = Path(os.environ["SITE_CONFIG"]).stem
    begun = _process_begun()
    note(str(context.run_config["record"]), step, round=number, site=site, process=begun, **facts)


def _process_begun() -> float:
    """Return when this process was started, in seconds since the epoch."""
    import psutil

    return psutil.Process().create_time()
