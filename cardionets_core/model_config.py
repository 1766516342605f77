"""ModelConfig: what the model sees and is made of. It travels with every task and checkpoint.

Widths are numbers of features, depths numbers of transformer blocks. The presets stand in
conf/model/*.yaml; the defaults here are those of `tiny`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class EcgSpec:
    """How a 12-lead record becomes a tensor; weights mean nothing without it.

    Attributes:
        sampling_rate_hz: rate after polyphase resampling.
        record_seconds: length that is kept of every record (shorter ones are zero-padded).
        crop_seconds: length that the encoder sees; random in training, `test_crops` spread evenly
            and averaged at test time.
        highpass_hz: zero-phase Butterworth high-pass, applied first.
        lowpass_hz: zero-phase Butterworth low-pass, applied second (skipped above Nyquist).
        filter_order: order of both.
        scale: `fixed` divides millivolts by `scale_mv` and keeps the voltage; `record` takes one
            mean and sd over all leads and time (the paper).
        scale_mv: see `scale`.
        mains_notch: a mains line that stands out is taken out before resampling (data/mains.py).
    """

    sampling_rate_hz: int = 100
    record_seconds: float = 10.0
    crop_seconds: float = 2.5
    test_crops: int = 3
    highpass_hz: float = 0.67
    lowpass_hz: float = 40.0
    filter_order: int = 5
    scale: Literal["fixed", "record"] = "fixed"
    scale_mv: float = 0.3
    mains_notch: bool = True

    @property
    def record_samples(self) -> int:
        """Samples per lead of a cached record."""
        return round(self.record_seconds * self.sampling_rate_hz)

    @property
    def crop_samples(self) -> int:
        """Samples per lead that the encoder sees."""
        return round(self.crop_seconds * self.sampling_rate_hz)


@dataclass(frozen=True)
class CineSpec:
    """How a cine volume becomes a tensor.

    Attributes:
        views: which views the CMR encoder reads, in order.
        size_px: height and width after resampling.
        pixel_mm: size of a pixel after resampling: physical size is kept.
        phases: cardiac phases over one cycle, the first at end-diastole.
    """

    views: tuple[str, ...] = ("4ch", "sax")
    size_px: int = 64
    pixel_mm: float = 2.5
    phases: int = 8


@dataclass(frozen=True)
class EcgEncoderConfig:
    """The ECG encoder.

    Attributes:
        kind: `vit` has one token per lead and patch; `s4d` a diagonal state-space model over time
            with all leads as channels.
        patch_samples: length of a patch of one lead; divides EcgSpec.crop_samples.
        embed: `linear` is one Linear for all leads (the paper); `lead_spectrum` gives each lead its
            own and shows it the patch's log magnitude spectrum beside the samples: small cohorts
            need not learn first that a beat may start anywhere in a patch (`vit` only).
        width, depth, heads: of the transformer (`heads` is not used by `s4d`).
        mlp_ratio: hidden width of a block's MLP over `width`.
        separators: one more token at both ends of each lead (the paper; `vit` only).
        state_size: complex states per feature (`s4d` only).
    """

    kind: Literal["vit", "s4d"] = "vit"
    patch_samples: int = 25
    embed: Literal["linear", "lead_spectrum"] = "lead_spectrum"
    width: int = 96
    depth: int = 3
    heads: int = 3
    mlp_ratio: float = 4.0
    separators: bool = False
    state_size: int = 16


@dataclass(frozen=True)
class CmrEncoderConfig:
    """The CMR encoder: a 2D ViT whose channels are the phases.

    Attributes:
        patch_px: side of a square patch; divides CineSpec.size_px.
        width, depth, heads, mlp_ratio: of the transformer.
        pool: what stands for a view: the mean of its patches or a class token (the paper).
    """

    patch_px: int = 8
    width: int = 96
    depth: int = 3
    heads: int = 3
    mlp_ratio: float = 4.0
    pool: Literal["mean", "cls"] = "mean"


@dataclass(frozen=True)
class DecoderConfig:
    """The small transformer that rebuilds masked patches; thrown away after pretraining."""

    width: int = 64
    depth: int = 1
    heads: int = 2
    mlp_ratio: float = 4.0


@dataclass(frozen=True)
class AlignmentConfig:
    """The space that ECG and CMR share.

    Attributes:
        width: length of an embedding (the paper: 256).
        hidden: 0 is one Linear (the paper); otherwise the hidden width of an MLP.
    """

    width: int = 64
    hidden: int = 0


@dataclass(frozen=True)
class TokenizerConfig:
    """Cine to latent and back; a latent is [channels, K / time, H / space, W / space].

    Attributes:
        kind: `kl` is a convolutional KL-VAE; `pixel` only rearranges pixels (nothing to train).
        channels: latent channels of `kl`; `pixel` has time_factor * space_factor**2.
        stem: (phases, rows, columns) of one patch of the input, embedded linearly.
        widths: features of each level; between two levels the grid shrinks by `strides`.
        strides: (time, rows, columns) between levels, one fewer than widths.
        blocks: residual blocks per level.
        groups: of the GroupNorms; divides every width.
        statistics: latents are standardised per `channel`, or per `cell` too: hearts are centred,
            so the mean image then costs the generator nothing to learn.
    """

    kind: Literal["kl", "pixel"] = "kl"
    channels: int = 8
    stem: tuple[int, int, int] = (2, 4, 4)
    widths: tuple[int, ...] = (48, 72)
    strides: tuple[tuple[int, int, int], ...] = ((1, 2, 2),)
    blocks: int = 1
    groups: int = 8
    statistics: Literal["channel", "cell"] = "cell"

    @property
    def factors(self) -> tuple[int, int, int]:
        """How many phases, rows and columns of the cine make one cell of the latent."""
        time, rows, columns = self.stem
        for stride in self.strides:
            time, rows, columns = time * stride[0], rows * stride[1], columns * stride[2]
        return time, rows, columns

    @property
    def latent_channels(self) -> int:
        """Numbers per cell of the latent."""
        if self.kind == "kl":
            return self.channels
        time, rows, columns = self.factors
        return time * rows * columns


@dataclass(frozen=True)
class GeneratorConfig:
    """The masked autoregressive generator over latent tokens (MAR).

    Attributes:
        view: the cine view that is generated.
        patch: (time, rows, columns) of latent cells in one token.
        width, encoder_depth, decoder_depth, heads, mlp_ratio: of the two transformers.
        condition: `tokens` attends to the ECG's own tokens; `vector` repeats the aligned ECG vector
            after two Linears (the paper).
        condition_tokens: how many condition tokens (8-16; the paper: 64).
        head: `flow` or `ddpm`, what models one token given the transformer's output.
        head_width, head_depth: of the head's MLP.
        noise_draws: timesteps per masked token and training step.
        mask_ratio_min: least share of tokens that is masked in training.
        ar_steps, head_steps, guidance: sampling defaults. A step of `flow` is a midpoint step (two
            evaluations), of `ddpm` one of `head_steps` respaced steps.
    """

    view: str = "4ch"
    patch: tuple[int, int, int] = (4, 2, 2)
    width: int = 96
    encoder_depth: int = 2
    decoder_depth: int = 2
    heads: int = 3
    mlp_ratio: float = 4.0
    condition: Literal["tokens", "vector"] = "tokens"
    condition_tokens: int = 8
    head: Literal["flow", "ddpm"] = "flow"
    head_width: int = 128
    head_depth: int = 2
    noise_draws: int = 4
    mask_ratio_min: float = 0.7
    ar_steps: int = 8
    head_steps: int = 4
    guidance: float = 2.0


@dataclass(frozen=True)
class HeadConfig:
    """A supervised head.

    Attributes:
        encoder: `own` gives the head its own copy of the ECG encoder, so that fine-tuning does not
            touch the aligned one (the paper); `shared` reads the aligned encoder.
        hidden: 0 is one Linear; otherwise the hidden width of an MLP.
    """

    encoder: Literal["own", "shared"] = "own"
    hidden: int = 0


@dataclass(frozen=True)
class ModelConfig:
    """The whole model. `num_phenotypes` and `num_diseases` are set by the run (RunConfig)."""

    preset: str = "tiny"
    ecg: EcgSpec = field(default_factory=EcgSpec)
    cine: CineSpec = field(default_factory=CineSpec)
    ecg_encoder: EcgEncoderConfig = field(default_factory=EcgEncoderConfig)
    ecg_decoder: DecoderConfig = field(default_factory=DecoderConfig)
    cmr_encoder: CmrEncoderConfig = field(default_factory=CmrEncoderConfig)
    cmr_decoder: DecoderConfig = field(default_factory=DecoderConfig)
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    phenotype_head: HeadConfig = field(default_factory=HeadConfig)
    disease_head: HeadConfig = field(default_factory=HeadConfig)
    num_phenotypes: int = 82
    num_diseases: int = 12

    def __post_init__(self) -> None:
        _check_ecg(self)
        _check_cmr(self)
        _check_generator(self)
        if self.num_phenotypes < 0 or self.num_diseases < 0:
            raise ValueError("num_phenotypes and num_diseases may not be negative.")

    @property
    def latent_grid(self) -> tuple[int, int, int]:
        """Cells of the latent along time, rows and columns."""
        time, rows, columns = self.tokenizer.factors
        size = self.cine.size_px
        return self.cine.phases // time, size // rows, size // columns

    @property
    def token_grid(self) -> tuple[int, int, int]:
        """Tokens of the generator along time, rows and columns."""
        (t, h, w), (pt, ph, pw) = self.latent_grid, self.generator.patch
        return t // pt, h // ph, w // pw


def _check_divides(part: int, whole: int, what: str) -> None:
    if part < 1 or whole % part:
        raise ValueError(f"{what}: {part} does not divide {whole}; choose a divisor.")


def _check_ecg(config: ModelConfig) -> None:
    encoder = config.ecg_encoder
    _check_divides(encoder.patch_samples, config.ecg.crop_samples, "ecg_encoder.patch_samples")
    _check_divides(encoder.heads, encoder.width, "ecg_encoder.heads")
    _check_divides(config.ecg_decoder.heads, config.ecg_decoder.width, "ecg_decoder.heads")
    if config.ecg.crop_seconds > config.ecg.record_seconds:
        raise ValueError("ecg.crop_seconds is longer than ecg.record_seconds; shorten the crop.")


def _check_cmr(config: ModelConfig) -> None:
    encoder = config.cmr_encoder
    if not config.cine.views:
        raise ValueError("cine.views is empty; name at least one view.")
    _check_divides(encoder.patch_px, config.cine.size_px, "cmr_encoder.patch_px")
    _check_divides(encoder.heads, encoder.width, "cmr_encoder.heads")
    _check_divides(config.cmr_decoder.heads, config.cmr_decoder.width, "cmr_decoder.heads")


def _check_generator(config: ModelConfig) -> None:
    tokenizer, generator = config.tokenizer, config.generator
    if len(tokenizer.strides) != len(tokenizer.widths) - 1:
        raise ValueError("tokenizer.strides must have one entry fewer than tokenizer.widths.")
    for width in tokenizer.widths:
        _check_divides(tokenizer.groups, width, "tokenizer.groups")
    cine = (config.cine.phases, config.cine.size_px, config.cine.size_px)
    for factor, length in zip(tokenizer.factors, cine, strict=True):
        _check_divides(factor, length, "tokenizer.stem and tokenizer.strides")
    for patch, cells in zip(generator.patch, config.latent_grid, strict=True):
        _check_divides(patch, cells, "generator.patch")
    _check_divides(generator.heads, generator.width, "generator.heads")
    if generator.view not in config.cine.views:
        raise ValueError(f"generator.view {generator.view!r} is not one of cine.views.")
    if not 0.0 < generator.mask_ratio_min <= 1.0:
        raise ValueError("generator.mask_ratio_min must be in (0, 1].")
