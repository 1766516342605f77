"""A federation that is listened to, and stopped where a test wants it to be."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

import client.client_app
import client.local_training
import client.private_training
import server.training
from cardionets_core.messages import (
    Groups,
    TaskHeader,
    Update,
    task_from_records,
    update_from_records,
)


class Stopped(BaseException):
    """Ends the server in the middle of a run, like a signal would."""


@dataclass
class Wire:
    """What travelled, and how often a site has trained.

    Attributes:
        tasks: (header, groups), in the order of the answers.
        answers: (header, update), without refusals.
        refused: codes of the refusals.
        trained: calls of the training loops.
    """

    tasks: list[tuple[TaskHeader, Groups]] = field(default_factory=list)
    answers: list[tuple[TaskHeader, Update]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    trained: int = 0

    def hear(self, content, reply):
        """Note what was asked and answered."""
        task = task_from_records(content)
        self.tasks.append((task.header, task.weights))
        if "refusal" in reply:
            self.refused.append(str(reply["refusal"]["code"]))
        else:
            self.answers.append((task.header, update_from_records(reply)))


def overheard(federate, folder, sites, words, *, stop_at=""):
    """Run or resume a federation and return what travelled.

    Args:
        federate: the fixture of this name.
        folder: of the run.
        sites: site name -> YAML.
        words: overrides of its plan.
        stop_at: the server is stopped when this round (stage/number) is aggregated and not saved.
    """
    wire = Wire()
    answer, save = client.client_app.answer, server.training.save_state

    def heard(content):
        reply = answer(content)
        wire.hear(content, reply)
        return reply

    def saved(state, *args):
        record = state.history[-1]
        if f"{record['stage']}/{record['round']}" == stop_at:
            raise Stopped
        return save(state, *args)

    def counted(train):
        def run(*args, **more):
            wire.trained += 1
            return train(*args, **more)

        return run

    loops = ((client.local_training, "train_locally"), (client.private_training, "train_privately"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client.client_app, "answer", heard)
        patch.setattr(server.training, "save_state", saved)
        for module, name in loops:
            patch.setattr(module, name, counted(getattr(module, name)))
        if stop_at:
            with pytest.raises(Stopped):
                federate(folder, sites, *words)
        else:
            federate(folder, sites, *words)
    return wire
