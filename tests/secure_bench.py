"""Sites and a server of secure aggregation without models: what is trained is given."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from cardionets_core.errors import SiteError
from cardionets_core.flower_compat import task_identity
from cardionets_core.messages import (
    Task,
    TrainPlan,
    Update,
    refusal,
    task_from_records,
    task_to_records,
    update_from_records,
    update_to_records,
)
from cardionets_core.model_config import ModelConfig
from cardionets_core.privacy_config import SitePrivacy
from cardionets_core.run_config import RunConfig, StageConfig
from cardionets_core.secure_config import SECURE, SecureAggregationConfig
from client.secure_rounds import serve_securely
from server.attendance import Attendance
from server.exchange import Run
from server.secure_rounds import gather_securely
from server.state import RunState, SiteRecord
from tests.server.played_round import FakeGrid
from tests.task_header import task_header

PLAN = TrainPlan(1, 32, 1e-3, 0.05, 3.0, 0, 0.0)
SHAPES = {"ecg_decoder": {"w": (7,)}, "ecg_encoder": {"b": (3,), "w": (5, 4)}}


def update_of(seed, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {
        part: {n: rng.normal(scale=0.3, size=s).astype(np.float32) for n, s in arrays.items()}
        for part, arrays in shapes.items()
    }


def keyed(folder, names, **fields):
    """Return site -> privacy with a signing key, and the verification keys of all others."""
    privacy, lines = {}, {}
    for name in names:
        key, file = Ed25519PrivateKey.generate(), folder / f"{name}.key"
        file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        lines[name], privacy[name] = line.decode(), SitePrivacy(signing_key=str(file), **fields)
    return {
        name: replace(mine, peers={n: line for n, line in lines.items() if n != name})
        for name, mine in privacy.items()
    }


@dataclass
class Hospital:
    """One site: its disk, and the update that training gives."""

    name: str
    folder: Path
    studies: int
    delta: dict
    privacy: SitePrivacy = field(default_factory=SitePrivacy)
    trained: int = 0

    @property
    def site(self):
        config = SimpleNamespace(privacy=self.privacy)
        return SimpleNamespace(name=self.name, runs=self.folder, config=config)

    def train(self, task, site):
        assert task.header.secure is None
        self.trained += 1
        header = task.header
        metrics = {"train_loss": 0.123}
        return Update(
            self.name,
            header.run,
            header.stage,
            header.round,
            self.studies,
            metrics,
            delta=self.delta,
        )

    def serve(self, task):
        return serve_securely(task, self.site, self.train)


@dataclass
class Federation:
    """Hospitals, a server, and who does not answer what.

    Attributes:
        min_sites: of the run; None: the stage says itself that it needs two.
        drops: (site, phase) -> how often the site does not answer it; -1: never does.
        signed: whether the hospitals know each other's verification keys.
        heard: what the server was told, (site, phase, update), in order.
    """

    folder: Path
    count: int
    threshold: int = 0
    shapes: dict = field(default_factory=lambda: SHAPES)
    clip: float = 1.0
    min_sites: int | None = None
    drops: dict = field(default_factory=dict)
    signed: bool = False
    heard: list = field(default_factory=list)
    bytes_up: int = 0

    def __post_init__(self):
        self.hospitals = {
            f"site{i}": Hospital(
                f"site{i}", self.folder / f"site{i}", 10 + 7 * i, update_of(i, self.shapes)
            )
            for i in range(self.count)
        }
        if self.signed:
            for name, privacy in keyed(self.folder, list(self.hospitals)).items():
                self.hospitals[name].privacy = privacy

    def round(self, number=1):
        """Play a round and return what was gathered."""
        names, least = list(self.hospitals), 2 if self.min_sites is None else 0
        nodes = {name: 100 + i for i, name in enumerate(names)}
        grid = FakeGrid({nodes[n]: self._behaviour(n) for n in names})
        config = RunConfig(
            name="run-1",
            seed=1,
            model=ModelConfig(),
            min_sites=self.min_sites or 1,
            stages=("handshake", "ecg_masked"),
            stage={"ecg_masked": StageConfig(rounds=9, min_sites=least, deadline_s=60.0)},
            rejoin_s=0.0,
            secure_aggregation=SecureAggregationConfig(True, self.threshold, self.clip),
        )
        (self.folder / "run").mkdir(exist_ok=True)
        run = Run(grid, config, self.folder / "run", lambda record: None)
        clock = [0.0]
        run.attendance = Attendance(
            grid,
            nodes,
            clock=lambda: clock[0],
            sleep=lambda s: clock.__setitem__(0, clock[0] + s),
        )
        weights = {
            p: {n: np.zeros(s, np.float32) for n, s in arrays.items()}
            for p, arrays in self.shapes.items()
        }
        records = {
            n: SiteRecord(("ecg",), {"train_studies": h.studies}, {})
            for n, h in self.hospitals.items()
        }
        head = task_header(train=PLAN, round=number, trains=tuple(weights))
        state = RunState(weights=weights, sites=records)
        with task_identity(run_id=1, node_id=1):
            return gather_securely(run, state, head, dict.fromkeys(names, head), expected=weights)

    def _behaviour(self, name):
        def behave(task, asked):
            phase = task.header.secure.phase
            left = self.drops.get((name, phase), 0)
            if left:
                self.drops[name, phase] = left - 1
                return refusal("internal")
            try:
                update = self.hospitals[name].serve(task)
            except SiteError as error:
                return refusal(error.code)
            self.heard.append((name, phase, update))
            return update_to_records(update)

        return behave

    def expected(self, came, roster):
        """Return the weighted mean of the rounded updates, from plain integers written here."""
        largest = max(h.studies for h in self.hospitals.values())
        levels = (2**31 - 1) // roster
        there = [self.hospitals[n] for n in came]
        weight = sum(h.studies for h in there)
        mean = {}
        for part, arrays in self.shapes.items():
            mean[part] = {}
            for name in arrays:
                total = 0
                for h in there:
                    values = np.clip(h.delta[part][name].astype(np.float64), -self.clip, self.clip)
                    total = total + np.rint(values * (h.studies / largest * levels / self.clip))
                mean[part][name] = total * (self.clip / levels * largest / weight)
        return mean


def carried(task: Task) -> Task:
    """Return a task as it arrives."""
    return task_from_records(task_to_records(task))


def returned(update: Update) -> Update:
    """Return an update as it arrives."""
    return update_from_records(update_to_records(update))


def array_of(update: Update, name: str):
    return update.delta[SECURE][name]


def refused(question, *args, caplog=None, cause="", **told):
    """Ask what a site must refuse, and see why in its own log."""
    with pytest.raises(SiteError) as raised:
        question(*args, **told)
    assert raised.value.code == "secure_aggregation"
    if caplog is not None:
        assert cause in caplog.text
