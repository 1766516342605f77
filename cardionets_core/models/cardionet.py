"""CardioNet: all parts behind one door.

The ten children are the parts that stages train and the wire carries; PARTS names them. Nothing in
the model draws random numbers except `generate`, from the generator that it is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cardionets_core.models.blocks import initialise_weights
from cardionets_core.models.cmr_encoder import CmrDecoder, CmrEncoder
from cardionets_core.models.ecg_encoder import EcgFeatures, EcgVitDecoder
from cardionets_core.models.generator import Generator, SamplingPlan
from cardionets_core.models.heads import Projector, SupervisedHead, make_ecg_encoder
from cardionets_core.models.s4d import EcgS4dDecoder
from cardionets_core.models.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cardionets_core.batch import Batch
    from cardionets_core.model_config import ModelConfig

PARTS = (
    "ecg_encoder",
    "ecg_decoder",
    "ecg_projector",
    "cmr_encoder",
    "cmr_decoder",
    "cmr_projector",
    "tokenizer",
    "generator",
    "phenotype_head",
    "disease_head",
)
"""The children of a CardioNet, in order."""


class CardioNet(nn.Module):
    """The whole model; build it with `build_model`.

    Args:
        config: what it sees and what it is made of.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.ecg_encoder = make_ecg_encoder(config)
        decoder = EcgVitDecoder if config.ecg_encoder.kind == "vit" else EcgS4dDecoder
        self.ecg_decoder = decoder(config)
        self.ecg_projector = Projector(config, config.ecg_encoder.width)
        self.cmr_encoder = CmrEncoder(config)
        self.cmr_decoder = CmrDecoder(config)
        self.cmr_projector = Projector(config, config.cmr_encoder.width)
        self.tokenizer = Tokenizer(config)
        self.generator = Generator(config)
        self.phenotype_head = SupervisedHead(config, config.phenotype_head, config.num_phenotypes)
        self.disease_head = SupervisedHead(config, config.disease_head, config.num_diseases)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def generated_view(self) -> int:
        """Position of the generator's view in CineSpec.views."""
        return self.config.cine.views.index(self.config.generator.view)

    def encode_ecg(self, ecg: Tensor, lead_mask: Tensor) -> EcgFeatures:
        """Encode ecg [B, 12, T] with lead_mask bool [B, 12]."""
        return self.ecg_encoder(ecg, lead_mask)  # type: ignore[no-any-return]

    def project_ecg(self, pooled: Tensor) -> Tensor:
        """Return unit vectors [B, E] of pooled ECG features [B, W]."""
        return self.ecg_projector(pooled)  # type: ignore[no-any-return]

    def encode_cmr(self, cine: Tensor, view_mask: Tensor) -> Tensor:
        """Return features [B, W] of cine [B, V, K, H, W] with view_mask bool [B, V]."""
        return self.cmr_encoder(cine, view_mask)  # type: ignore[no-any-return]

    def project_cmr(self, pooled: Tensor) -> Tensor:
        """Return unit vectors [B, E] of CMR features [B, W]."""
        return self.cmr_projector(pooled)  # type: ignore[no-any-return]

    def encode_latent(self, cine: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return standardised latents [B, C, k, h, w] of one view [B, K, H, W].

        Without noise the posterior mean, with noise (the latent's shape) a sample.
        """
        return self.tokenizer.encode(cine, noise)

    def decode_latent(self, latent: Tensor) -> Tensor:
        """Return the cine [B, K, H, W] in [-1, 1] of standardised latents [B, C, k, h, w]."""
        return self.tokenizer.decode(latent)

    def update_latent_statistics(self, batches: Iterable[Batch]) -> None:
        """Set the latent statistics from the generator's view of all patients who have it."""
        view = self.generated_view
        self.tokenizer.update_statistics(b.cine[b.view_mask[:, view], view] for b in batches)

    def phenotypes(self, ecg: Tensor, lead_mask: Tensor) -> Tensor:
        """Return z-scored phenotypes [B, P]."""
        return self.phenotype_head(ecg, lead_mask, self.ecg_encoder)  # type: ignore[no-any-return]

    def diseases(self, ecg: Tensor, lead_mask: Tensor) -> Tensor:
        """Return logits [B, D]."""
        return self.disease_head(ecg, lead_mask, self.ecg_encoder)  # type: ignore[no-any-return]

    @torch.no_grad()
    def start_head(self, part: str) -> None:
        """Start a head from the aligned encoder, once, before its first round.

        A head with its own encoder takes a copy of ecg_encoder's weights. The phenotype head also
        takes the readout that the regression beside the alignment has trained.
        """
        head = self.get_submodule(part)
        assert isinstance(head, SupervisedHead)
        if head.owns_encoder:
            head.encoder.load_state_dict(self.ecg_encoder.state_dict())
        if part == "phenotype_head":
            head.readout.load_state_dict(self.ecg_projector.regress.state_dict())

    @torch.no_grad()
    def generate(
        self,
        ecg: Tensor,
        lead_mask: Tensor,
        *,
        generator: torch.Generator,
        conditional: bool = True,
        guidance: float | None = None,
        ar_steps: int | None = None,
        head_steps: int | None = None,
    ) -> Tensor:
        """Return one synthetic cine per ECG, [B, K, H, W] in [-1, 1].

        Args:
            ecg: [B, 12, T].
            lead_mask: bool [B, 12].
            generator: source of all randomness; the same seed gives the same cines.
            conditional: False ignores the ECG (the learned null condition).
            guidance: classifier-free guidance; 1 is none. Default: the configuration's, as below.
            ar_steps: steps in which tokens are revealed.
            head_steps: steps of the flow or diffusion head.
        """
        own = self.config.generator
        plan = SamplingPlan(
            own.ar_steps if ar_steps is None else ar_steps,
            own.head_steps if head_steps is None else head_steps,
            1.0 if not conditional else own.guidance if guidance is None else guidance,
        )
        null = self.generator.null(len(ecg))
        condition = null
        if conditional:
            features = self.encode_ecg(ecg, lead_mask)
            condition = self.generator.conditions(features, self.project_ecg(features.pooled))
        latent = self.generator.sample(condition, null, plan=plan, generator=generator)
        return self.decode_latent(latent)


def build_model(
    config: ModelConfig, *, seed: int = 0, device: str | torch.device = "cpu"
) -> CardioNet:
    """Build a model whose weights depend on (config, seed) only, in evaluation-free fp32.

    Args:
        config: what to build.
        seed: of the start weights, drawn on the CPU: the same bits on every machine.
        device: where the model ends up; `meta` gives shapes without weights or memory.
    """
    with torch.device("meta"):
        model = CardioNet(config)
    if torch.device(device).type == "meta":
        return model
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        initialise_weights(model, torch.Generator().manual_seed(seed))
    return model.to(device)
