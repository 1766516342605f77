"""A private site is killed at each phase of a round, and then asked the same again.

Real kills, of a real answer: a child process serves the task through the site's app and sends
itself SIGKILL at a fault point (cardionets_core/faults.py). What its ledger has counted then, and
after the task was served again, is held against what has left the site.
"""

from __future__ import annotations

import csv
import hashlib
import os
import signal
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from cardionets_core.checkpoint import part_arrays
from cardionets_core.cohort.write import write_site
from cardionets_core.data.manifest import read_manifest
from cardionets_core.environment import variables
from cardionets_core.evaluation.options import EvaluationOptions
from cardionets_core.faults import FAULTS_ENV
from cardionets_core.messages import (
    REFUSAL,
    Task,
    TaskHeader,
    TrainPlan,
    task_to_records,
)
from cardionets_core.models.cardionet import build_model
from cardionets_core.packing import fingerprint
from cardionets_core.privacy.ledger import Ledger
from cardionets_core.privacy.new_ledger import init_ledger
from cardionets_core.privacy_config import PrivateTask
from cardionets_core.site_config import SITE_CONFIG_ENV, load_site_config, write_yaml
from client.client_app import answer
from client.site import Site
from simulations.privacy.held import small_plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flwr.app import RecordDict

    from cardionets_core.model_config import ModelConfig
    from cardionets_core.packing import Groups
    from cardionets_core.privacy_config import SitePrivacy

PATIENTS, SEED = 24, 11
SALT = "salt-of-west"
PHENOTYPES, DISEASES = ("lv_edv", "lv_ef"), ("atrial_fibrillation",)
KEPT = ("patient_id", "ecg", "age", "sex", *PHENOTYPES, *DISEASES)
TRAINED = ("ecg_encoder", "ecg_decoder")
SCORED = ("ecg_encoder", "phenotype_head", "disease_head")
STEPS = PrivateTask(noise=2.0, rate=0.2, clip=1.0, steps=2)
RELEASE = PrivateTask(noise=10.0, rate=1.0, clip=1.0, steps=1)

SENT = "sent"
"""After the answer has left: the kill that a site's process never hears of."""

LONGEST_S = 300
"""After which a child that hangs is ended; that is a finding."""


@dataclass(frozen=True)
class Place:
    """Where a site dies.

    Attributes:
        action: of the task in hand.
        point: name of the fault point, or `SENT`.
        charged: whether the task has been charged by then.
        kept: whether its answer is on the disk by then.
    """

    action: str
    point: str
    charged: bool = True
    kept: bool = False


PLACES = (
    Place("train", "received", charged=False),
    Place("train", "loaded", charged=False),
    Place("train", "charged"),
    Place("train", "mid_epoch"),
    Place("train", "trained"),
    Place("train", "ledger_written", kept=True),
    Place("train", "packed", kept=True),
    Place("train", SENT, kept=True),
    *(
        Place(action, point, kept=point != "charged")
        for action in ("fit", "score")
        for point in ("charged", "ledger_written", "packed", SENT)
    ),
)
"""Every phase of a round at a private site: its training, and both rounds of the evaluation."""


@dataclass(frozen=True)
class Crash:
    """What came of one.

    Attributes:
        place: where.
        killed: charges of this task after the kill.
        replayed: after the task was served again.
        repeated: after it was served a third time.
        released: different answers to it that a coordinator may hold.
        complaint: empty, or what was wrong.
    """

    place: Place
    killed: int
    replayed: int
    repeated: int
    released: int
    complaint: str = ""


def crashes(path: Path) -> Iterator[Crash]:
    """Crash the site of a YAML (`private_site`) once at every place of a round."""
    settings = load_site_config(path).privacy
    with variables({SITE_CONFIG_ENV: str(path)}):
        for number, place in enumerate(PLACES, 1):
            yield _crash(settings, place, number)


def private_site(folder: Path) -> Path:
    """Write a virtual hospital with ECGs and a ledger; return its YAML."""
    table = folder / "data" / "manifest.csv"
    write_site("A", patients=PATIENTS, seed=SEED, out=folder / "data", ecg_only=True)
    _narrow(table)
    (folder / "ledger").mkdir()
    privacy = {
        "ledger": str(folder / "ledger" / "ledger.jsonl"),
        "patients": 100,
        "modalities": ["ecg", "phenotypes"],
        "epsilon": 20.0,
    }
    data = {"root": str(table.parent), "manifest": str(table), "cache": str(folder / "cache")}
    path = folder / "west.yaml"
    own = {"site": "west", "title": "Hospital west", "device": "cpu", "privacy": privacy}
    write_yaml(path, own | {"data": data | {"salt": SALT}})
    config = load_site_config(path)
    ids = read_manifest(table, table.parent).table["patient_id"].unique()
    cache = Path(config.data.cache)
    init_ledger(config.privacy, patients=ids, salt=SALT, claim_folder=cache)
    Site(config).dataset(_header("train", 0))  # prepares the records: no crash is about that
    return path


def _narrow(table: Path) -> None:
    """Keep a few columns: all 90 are read for every task."""
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, KEPT, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def _header(action: str, number: int) -> TaskHeader:
    """Return the header of a task, each of a run of its own."""
    header = TaskHeader(
        run=f"crash-{number}",
        config_hash="",
        stage="evaluate",
        action=action,  # type: ignore[arg-type]
        round=1,
        seed=SEED,
        threads=1,
        model=_model(),
        phenotypes=PHENOTYPES,
        diseases=DISEASES,
        scaler_mean=(120.0, 60.0),
        scaler_sd=(30.0, 8.0),
        min_patients=5,
        privacy=RELEASE,
    )
    if action != "train":
        return replace(header, evaluation=EvaluationOptions(sections=("phenotypes",)))
    train = TrainPlan(
        local_epochs=1,
        batch_size=32,
        lr=1e-3,
        weight_decay=0.0,
        clip_norm=1.0,
        max_steps=STEPS.steps,
        progress=0.0,
        budget_s=0.0,
        codec="int8",
    )
    return replace(header, stage="ecg_masked", trains=TRAINED, train=train, privacy=STEPS)


@cache
def _model() -> ModelConfig:
    names = (f"phenotypes=[{','.join(PHENOTYPES)}]", f"diseases=[{','.join(DISEASES)}]")
    return small_plan(*names).sized_model()


@cache
def _weights(*parts: str) -> tuple[Groups, dict[str, str]]:
    """Return parts of the model at its start, and their marks; they are not to be changed."""
    model = build_model(_model(), seed=1)
    weights = {part: part_arrays(model, part) for part in parts}
    return weights, {part: fingerprint(arrays) for part, arrays in weights.items()}


def _task(action: str, number: int) -> RecordDict:
    """Return a task as it comes over the wire."""
    weights, marks = _weights(*(TRAINED if action == "train" else SCORED))
    return task_to_records(Task(replace(_header(action, number), parts=marks), weights))


def _crash(settings: SitePrivacy, place: Place, number: int) -> Crash:
    task, note = _task(place.action, number), Path(f"{settings.ledger}.sent-{number}")
    before = _charges(settings)
    was_killed = _killed(task, place.point, note)
    killed = _charges(settings) - before
    answers = [answer(task)]
    replayed = _charges(settings) - before
    answers.append(answer(task))
    repeated = _charges(settings) - before
    sent = {digest(a) for a in answers} | ({note.read_text()} if note.exists() else set())
    found = Crash(place, killed, replayed, repeated, len(sent))
    if not was_killed:
        return replace(found, complaint="the site was not killed at this place")
    if any(REFUSAL in a for a in answers):
        return replace(found, complaint=f"refused: {answers[0].get(REFUSAL)}")
    return replace(found, complaint=_complaint(found))


def _complaint(found: Crash) -> str:
    """Return what is wrong with the charges of a task; empty if nothing is."""
    place = found.place
    if found.released > found.replayed:
        return f"{found.released} different answers for {found.replayed} charges"
    if found.released != 1 or found.repeated != found.replayed:
        return "an answer that was kept was not sent again as it was, at no charge"
    if found.killed != place.charged or found.replayed != found.killed + (not place.kept):
        return f"charged {found.killed} times at the kill, {found.replayed} after the replay"
    return ""


def _charges(settings: SitePrivacy) -> int:
    with Ledger.read(settings) as ledger:
        return len(ledger.charges)


def digest(content: RecordDict) -> str:
    """Return a hash over every byte of an answer."""
    mark = hashlib.sha256()
    for name in sorted(content.keys()):
        mark.update(f"{name}: {type(content[name]).__name__}".encode())
        for key, value in sorted(content[name].items()):
            mark.update(key.encode() + (getattr(value, "data", None) or repr(value).encode()))
    return mark.hexdigest()


# ------------------------------------------------------------------------------------- the child


def _killed(task: RecordDict, point: str, note: Path) -> bool:
    """Let a child serve the task and die; return whether it died by its own SIGKILL."""
    child = os.fork()
    if child == 0:
        _die(task, point, note)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def _die(task: RecordDict, point: str, note: Path) -> None:
    """Serve the task up to the point. Never returns."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(LONGEST_S)
    try:
        with ExitStack() as stack:
            if point != SENT:
                faults = note.with_name(f"{note.name}.faults")
                faults.mkdir()
                (faults / f"{point}.kill").touch()
                stack.enter_context(variables({FAULTS_ENV: str(faults)}))
            sent = digest(answer(task))
            if point == SENT:
                note.write_text(sent)
                os.kill(os.getpid(), signal.SIGKILL)
    finally:
        os._exit(1)
