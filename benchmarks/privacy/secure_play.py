"""A session of secure aggregation, played by hand, for benchmarks/privacy/secure_aggregation.py.

Sites answer through client/secure_rounds.py, with their keys on disk, and every answer is packed as
it travels; the server adds and unmasks as in server/secure_session.py. All hospitals sign.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from cardionets_core.messages import (
    Task,
    TaskHeader,
    TrainPlan,
    Update,
    payload_bytes,
    update_to_records,
)
from cardionets_core.model_config import ModelConfig
from cardionets_core.privacy.secure_aggregation.protocol import (
    PUBLIC_BYTES,
    SEALED_BYTES,
    Terms,
    unmask,
)
from cardionets_core.privacy.secure_aggregation.quantiser import CHECKS, Quantiser, check_sum
from cardionets_core.privacy.secure_aggregation.signatures import SIGNATURE_BYTES
from cardionets_core.privacy_config import SitePrivacy
from cardionets_core.secure_config import AGREEMENTS, KEYS, SECURE, SHARES, SecureTask
from client.secure_rounds import serve_securely

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cardionets_core.packing import Groups

SITES, THRESHOLD = 7, 5
CLIP = 1.0
PART, STAGE = "ecg_encoder", "ecg_masked"
PLAN = TrainPlan(1, 32, 1e-3, 0.05, 3.0, 0, 0.0)


class NoSumError(Exception):
    """Too few sites are left."""


@dataclass
class Session:
    """One session of all sites, played by hand.

    Attributes:
        folder: of the sites' disks.
        size: numbers of an update.
        gone: phase -> sites that do not answer it, nor any later one.
        bytes_up: site -> bytes of all its answers.
        seconds: `site`: CPU seconds of each masking; `server`: of the unmasking.
    """

    folder: Path
    size: int
    gone: dict[str, Sequence[str]] = field(default_factory=dict)
    bytes_up: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"site": [], "server": []})

    def __post_init__(self) -> None:
        self.studies = {f"site{i}": 20 + 13 * i for i in range(SITES)}
        self.folder.mkdir(parents=True, exist_ok=True)
        self.privacy = _keyed(self.folder, list(self.studies))

    def delta(self, site: str) -> Groups:
        """Return the update of a site: noise of the size that training gives, and outliers."""
        rng = np.random.default_rng(self.studies[site])
        values = rng.standard_t(3, self.size).astype(np.float32) * np.float32(0.1)
        return {PART: {"w": values}}

    def play(self) -> Groups:
        """Return the mean of the sites that came.

        Raises:
            NoSumError: fewer than the threshold are left.
        """
        keys = self._asked("keys", list(self.studies))
        self.roster = tuple(keys)
        rows = np.stack(list(keys.values()))
        sealed = self._asked("shares", keys, {KEYS: rows}, roster=self.roster)
        masked = tuple(sealed)
        told: dict[str, Any] = {"roster": self.roster, "present": masked}
        residues = self._asked("train", masked, **told)
        self.came = tuple(residues)
        total = np.zeros(self.size + CHECKS, dtype=np.uint32)
        for values in residues.values():
            total += np.frombuffer(values.tobytes(), "<u4")
        self.masked = total.copy()
        self.agreed = self._asked("agree", self.came, present=self.came)
        revealed = {site: self._opened(site, sealed) for site in self._left("unmask", self.agreed)}
        terms = Terms("s", THRESHOLD, {s: k[:PUBLIC_BYTES].tobytes() for s, k in keys.items()})
        started = time.process_time()
        unmask(total, terms, revealed, masked=masked, came=self.came)
        self.seconds["server"].append(time.process_time() - started)
        check_sum(total, len(self.came))
        weight = sum(self.studies[s] for s in self.came)
        return self.quantiser().mean(total, self.delta("site0"), weight)

    def quantiser(self) -> Quantiser:
        """Return the fixed point of this session."""
        return Quantiser(len(self.roster), CLIP, {}, max(self.studies.values()))

    def plain(self) -> Groups:
        """Return the mean of the same rounded updates, added without masks."""
        total = np.zeros(self.size + CHECKS, dtype=np.uint32)
        for site in self.came:
            total += self.quantiser().residues(self.delta(site), self.studies[site])[0]
        weight = sum(self.studies[s] for s in self.came)
        return self.quantiser().mean(total, self.delta("site0"), weight)

    def float_mean(self) -> np.ndarray:
        """Return the float64 mean of the clipped updates."""
        values = [np.clip(self.delta(s)[PART]["w"].astype(float), -CLIP, CLIP) for s in self.came]
        return np.average(values, axis=0, weights=[self.studies[s] for s in self.came])

    def ask(self, site: str, phase: str, arrays: dict[str, np.ndarray], **told: Any) -> np.ndarray:
        """Ask one site; return the one array of its answer."""
        largest = max(self.studies.values())
        secure = SecureTask("s", phase, THRESHOLD, CLIP, {}, largest, **told)  # type: ignore[arg-type]
        header = TaskHeader(
            "run", "", STAGE, "train", 1, 1, 1, ModelConfig(), (), (), train=PLAN, secure=secure
        )
        config = SimpleNamespace(privacy=self.privacy[site])
        there: Any = SimpleNamespace(name=site, runs=self.folder / site, config=config)
        started = time.process_time()
        update = serve_securely(Task(header, {SECURE: arrays}), there, self._train)
        if phase == "train":
            self.seconds["site"].append(time.process_time() - started)
        self.bytes_up[site] += payload_bytes(update_to_records(update))
        (array,) = update.delta[SECURE].values()
        return array

    def _train(self, task: Task, site: Any) -> Update:
        studies, delta = self.studies[site.name], self.delta(site.name)
        return Update(site.name, "run", STAGE, 1, studies, delta=delta)

    def _asked(
        self, phase: str, sites: Any, arrays: dict[str, np.ndarray] | None = None, **told: Any
    ) -> dict[str, np.ndarray]:
        there = self._left(phase, sites)
        return {site: self.ask(site, phase, arrays or {}, **told) for site in there}

    def _left(self, phase: str, sites: Any) -> list[str]:
        left = [site for site in sites if site not in self.gone.get(phase, ())]
        if len(left) < THRESHOLD:
            raise NoSumError(f"{len(left)} of {THRESHOLD} sites needed, in phase {phase}")
        return left

    def _opened(self, site: str, sealed: dict[str, np.ndarray]) -> dict[str, bytes]:
        rows = self.ask(site, "unmask", self.opening_for(site, sealed), present=self.came)
        return {s: row.tobytes() for s, row in zip(self.roster, rows, strict=True)}

    def opening_for(self, site: str, sealed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return what each site of the roster has sealed for one of them, and who has agreed."""
        column = self.roster.index(site)
        shares = {s: rows[column] for s, rows in sealed.items()}
        return {SHARES: self.rows_of(shares, SEALED_BYTES),
                AGREEMENTS: self.rows_of(self.agreed, SIGNATURE_BYTES)}  # fmt: skip

    def rows_of(self, rows: dict[str, np.ndarray], width: int) -> np.ndarray:
        """Return rows in the order of the roster; zeros where a site has none."""
        nothing = np.zeros(width, dtype=np.uint8)
        return np.stack([rows.get(site, nothing) for site in self.roster])


def _keyed(folder: Path, names: list[str]) -> dict[str, SitePrivacy]:
    """Return site -> its signing key and the verification keys of the others."""
    keys = {name: Ed25519PrivateKey.generate() for name in names}
    lines = {
        name: key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        for name, key in keys.items()
    }
    for name, key in keys.items():
        private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        (folder / f"{name}.key").write_bytes(private)
    return {
        name: SitePrivacy(
            signing_key=str(folder / f"{name}.key"),
            peers={other: line for other, line in lines.items() if other != name},
        )
        for name in names
    }
