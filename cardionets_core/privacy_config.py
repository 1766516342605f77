"""Plain settings of differential privacy: what a run asks, what a site allows, what they say.

docs/privacy.md has the mechanisms. Every number here is a constant of the approved plan or of the
hospital's own YAML; none may be computed from patients.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Literal

Contrastive = Literal["bucket", "public_negatives"]
"""How contrastive alignment is made private: docs/privacy.md, section on contrastive losses."""

Modality = Literal["ecg", "cine", "pairs", "phenotypes", "diseases"]
"""What a hospital may declare to offer (words of SiteDataset.modalities)."""

Profile = Literal["membership", "anti_reconstruction_only"]
"""What a plan's epsilon is meant to hold against; docs/privacy.md, Ledger."""

LARGE_EPSILON = 30.0
"""Epsilon from which on nothing is said of the question who took part (docs/privacy.md)."""

NOT_MEMBERSHIP = (
    "privacy.profile=anti_reconstruction_only: its epsilon is too large to hide who took part. It "
    "is meant against the reconstruction of images and signals alone, and is NOT membership privacy"
)
"""Said wherever a plan of this profile is shown."""

BUCKET_SIZES = range(2, 65)
"""Mean patients of a bucket. Alone nobody has a negative; and all of a bucket are in memory at
once, so that one who could ask for any size would see by tasks that fail how many were sampled."""

OVERRIDES = ("noise", "rate", "clip")
"""What a stage may set for itself in `PrivacyRequest.stages`."""


@dataclass(frozen=True)
class PrivacyRequest:
    """What the coordinator asks of the sites; a site may always demand more.

    Attributes:
        mode: `patient`: each site trains with differential privacy for its patients; `none`.
        noise: sigma, the noise multiplier that the accountant sees.
        rate: q, the probability with which a patient is in a step.
        clip: C, the largest L2 norm of what one patient (or bucket) adds to a step.
        contrastive: how the loss of the contrastive stage is made private.
        bucket_size: mean patients of a bucket.
        sums_noise: noise multiplier of the phenotype sums of the handshake, released once.
        evaluation_noise: of each release of the evaluation.
        latent_noise: of the tokenizer's latent statistics, released in the last round of its stage;
            0: they stay at 0 and 1.
        stages: stage -> `noise`, `rate` or `clip` of its own.
        earlier_runs: hold each site's ledger also against what other runs in the same output folder
            have seen of it; False where ledgers begin anew with every run, as in a simulation.
        profile: `membership`: epsilon is to say something of who took part, so a plan that costs
            `LARGE_EPSILON` or more is refused; `anti_reconstruction_only`: it does not, and only
            sites that allow so large an epsilon serve it.
    """

    mode: Literal["none", "patient"] = "none"
    noise: float = 1.0
    rate: float = 0.05
    clip: float = 1.0
    contrastive: Contrastive = "bucket"
    bucket_size: int = 4
    sums_noise: float = 5.0
    evaluation_noise: float = 3.0
    latent_noise: float = 10.0
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    earlier_runs: bool = True
    profile: Profile = "membership"

    def __post_init__(self) -> None:
        """Refuse numbers that no mechanism can have."""
        for name in ("noise", "clip", "sums_noise", "evaluation_noise"):
            _above_zero(name, getattr(self, name))
        _a_rate("rate", self.rate)
        if not (math.isfinite(self.latent_noise) and self.latent_noise >= 0):
            raise ValueError(f"latent_noise is {self.latent_noise}; it must be 0 (off) or above")
        if self.bucket_size not in BUCKET_SIZES:
            raise ValueError(
                f"bucket_size is {self.bucket_size}; it must be {BUCKET_SIZES.start} to "
                f"{BUCKET_SIZES.stop - 1}, since a bucket needs 2 and is computed all at once"
            )
        for stage, values in self.stages.items():
            for name, value in values.items():
                where = f"stages.{stage}.{name}"
                if name not in OVERRIDES:
                    raise ValueError(f"{where}: a stage may set {', '.join(OVERRIDES)}")
                (_a_rate if name == "rate" else _above_zero)(where, value)

    @property
    def is_on(self) -> bool:
        """Whether anything is asked."""
        return self.mode != "none"

    def of(self, stage: str, name: str) -> float:
        """Return `noise`, `rate` or `clip` of a stage."""
        value: float = self.stages.get(stage, {}).get(name, getattr(self, name))
        return value


@dataclass(frozen=True)
class CentralPrivacy:
    """Client-level privacy at the coordinator; privacy/central.py says what it hides and costs.

    Attributes:
        noise: noise multiplier z of a round's sum of updates; 0 is off.
        clip: S, the largest L2 norm of a site's update.
        delta: of the guarantee, per hospital.
    """

    noise: float = 0.0
    clip: float = 1.0
    delta: float = 1e-5

    def __post_init__(self) -> None:
        """Refuse numbers that no mechanism can have."""
        if not (math.isfinite(self.noise) and self.noise >= 0):
            raise ValueError(f"noise is {self.noise}; it must be 0 (off) or above")
        _above_zero("clip", self.clip)
        if not 0 < self.delta < 1:
            raise ValueError(f"delta is {self.delta}; it must be between 0 and 1")

    @property
    def is_on(self) -> bool:
        """Whether noise is asked for."""
        return self.noise > 0


@dataclass(frozen=True)
class PrivateTask:
    """What a task asks under differential privacy; the site checks it against its own limits.

    Attributes:
        noise: sigma; likewise `rate` q and `clip` C of every step.
        steps: noisy steps of this task, also where nobody is sampled.
        contrastive: how a contrastive loss is made private.
        bucket_size: mean patients of a bucket.
        latent_noise: of the tokenizer's latent statistics, released after the last step; 0: they
            are not.
        head: newest ledger head that the coordinator has seen of this site; empty: none.
        heads: the same of all sites, in a handshake with a node of which the coordinator does not
            know yet whose it is: `head_key` -> head.
        profile: of the plan; a site lets `anti_reconstruction_only` in by its own cap alone.
    """

    noise: float
    rate: float
    clip: float
    steps: int
    contrastive: Contrastive = "bucket"
    bucket_size: int = 4
    latent_noise: float = 0.0
    head: str = ""
    heads: dict[str, str] = field(default_factory=dict)
    profile: Profile = "membership"

    def head_of(self, *, run: str, site: str) -> str:
        """Return the newest head of a site's ledger that the coordinator knows; empty: none."""
        return self.head or self.heads.get(head_key(run=run, site=site), "")


def head_key(*, run: str, site: str) -> str:
    """Return the key of a site in `PrivateTask.heads`: a SHA-256, and not its name.

    So a site is not told who else takes, or took, part; one that guesses a name can test it.
    """
    return hashlib.sha256(json.dumps([run, site]).encode()).hexdigest()


@dataclass(frozen=True)
class PrivacyReport:
    """What an update says of the privacy that it cost; nothing in it depends on the patients' data.

    What a version that did not tell it has left out is 0.

    Attributes:
        epsilon: counted by RDP, at `delta` and `order`, of all that the ledger holds; add/remove
            one patient. What is promised is the budget.
        delta: of the site's ledger.
        head: hash of the ledger's newest entry, 64 hex digits.
        entries: entries of the ledger.
        budget: the most that the site lets all runs together spend.
        order: Renyi's alpha, at which the ledger gates since before its first charge.
        promised: the budget that the ledger recorded before its first charge; a larger one was
            raised afterwards.
        raises: how many of the entries are raised budgets.
    """

    epsilon: float
    delta: float
    head: str
    entries: int
    budget: float = 0.0
    order: float = 0.0
    promised: float = 0.0
    raises: int = 0

    @property
    def left(self) -> float:
        """What of the budget is not yet used, as far as it is told; NaN where it is not."""
        return max(0.0, self.budget - self.epsilon) if self.budget else math.nan


@dataclass(frozen=True)
class SitePrivacy:
    """What a hospital allows and declares.

    Attributes:
        required: refuse every task that is not differentially private; where it is not said, a
            hospital that names a ledger does.
        secure_sites: answer training tasks only inside a secure sum over at least so many sites;
            0: an update may also leave by itself.
        signing_key: whole path of this site's private key (Ed25519, OpenSSH), with which it signs
            its keys of secure aggregation; empty: it does not.
        peers: site -> verification key (a line of its `.pub` file), got from that hospital and not
            through the coordinator. Where there are any, secure sums are over these sites only, and
            opened when a threshold of them have signed that they were told the same.
        ledger: whole path of the ledger file of this patient population (`cardionets-site budget
            init` makes it); empty: the site takes no part in private runs.
        patients: the declared number of patients: a public, rounded constant. Weights, batch
            sizes and normalisers follow from it, never from the records.
        modalities: what the hospital declares to offer; in private runs the coordinator is told
            this, and not what the records hold.
        epsilon: the most that all runs together may spend.
        delta: of the guarantee; at most 1 / patients.
        min_noise: smallest noise multiplier of a training step that is let in.
        max_rate: largest sampling rate of a training step that is let in.
        bank: prepared folder of public (or DP-generated) records whose embeddings are negatives.
    """

    required: bool | None = None
    secure_sites: int = 0
    signing_key: str = ""
    peers: dict[str, str] = field(default_factory=dict)
    ledger: str = ""
    patients: int = 0
    modalities: tuple[Modality, ...] = ()
    epsilon: float = 8.0
    delta: float = 1e-5
    min_noise: float = 0.3
    max_rate: float = 0.5
    bank: str = ""

    @property
    def is_large(self) -> bool:
        """Whether the cap is so large that it says nothing of who took part."""
        return self.epsilon >= LARGE_EPSILON

    @property
    def is_required(self) -> bool:
        """Whether tasks without privacy are refused."""
        return bool(self.ledger) if self.required is None else self.required

    def __post_init__(self) -> None:
        """Refuse a budget that promises nothing."""
        _above_zero("privacy.epsilon", self.epsilon, ", for instance 8")
        _above_zero("privacy.min_noise", self.min_noise)
        _a_rate("privacy.max_rate", self.max_rate)
        if self.secure_sites < 0 or self.secure_sites == 1:
            raise ValueError(
                f"privacy.secure_sites is {self.secure_sites}; a sum over one site hides nothing. "
                "Give 0 or at least 2"
            )
        if self.peers and not self.signing_key:
            raise ValueError(
                "privacy.peers is set and privacy.signing_key is not; hospitals that know each "
                "other open a sum when they have signed the same. Make a pair with: ssh-keygen -t "
                "ed25519 -N '' -f signing_key"
            )
        if self.ledger and self.patients < 1:
            raise ValueError(
                "privacy.patients is not set; declare the rounded, public number of patients"
            )
        if not 0 < self.delta < 1 or (self.patients and self.delta > 1 / self.patients):
            raise ValueError(
                f"privacy.delta is {self.delta:g}; it must be above 0 and at most 1 / patients "
                f"({1 / max(1, self.patients):.2g}): above, publishing one whole record would "
                f"pass. Set privacy.delta to {min(1e-5, 0.1 / max(1, self.patients)):.2g} or less: "
                "1e-5, or a tenth of 1 / patients where that is smaller"
            )


def _above_zero(name: str, value: float, hint: str = "") -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value:g}; set a number above 0{hint}")


def _a_rate(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{name} is {value}; a sampling rate is above 0 and at most 1")
