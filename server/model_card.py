"""The model card: what a model is, from whom it learned, and what it must not be taken for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cardionets_core.privacy_config import NOT_MEMBERSHIP
from cardionets_core.training.stages import STAGES
from cardionets_core.vocabulary import COHORT_DISCLAIMER, PHENOTYPE_BY_NAME
from server.privacy import card_lines

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cardionets_core.run_config import RunConfig
    from server.state import RunState


def model_card(config: RunConfig, state: RunState, summary: dict[str, Any]) -> str:
    """Return a model card in Markdown: what it is, from whom it learned, what it is for."""
    ecg, privacy = config.model.ecg, summary["privacy"]
    sites = "\n".join(
        f"| {n} | {', '.join(s.modalities)} | {s.counts.get('patients', 0)} |"
        for n, s in sorted(state.sites.items())
    )
    return f"""# Model card: {config.name}

CardioNets, preset `{config.model.preset}`: a 12-lead ECG in; {given(config)}

**Research use only; not a medical device.** Trained by federated learning (strategy
`{config.strategy.name}`); no record left a site.{virtual_words(config)}

| site | modalities | patients |
|---|---|---|
{sites}

- ECG: 12 leads, {ecg.sampling_rate_hz} Hz, {ecg.record_seconds:g} s, zero-phase Butterworth
  order {ecg.filter_order}, {ecg.highpass_hz:g}-{ecg.lowpass_hz:g} Hz.{cine_line(config)}
- Stages: {", ".join(config.stages)}. Seed {config.seed}. Config SHA-256 `{summary["config_hash"]}`.
- Weights SHA-256 `{summary["weights_sha256"]}`.
- {start_line(config)}
{card_lines(config, privacy["sites"])}{secure_line(config)}{_memory(config, summary["metrics"])}
{results_line(config, privacy.get("warnings", ()))}
- Versions: {", ".join(f"{k} {v}" for k, v in summary["versions"].items())}.
"""


def given(config: RunConfig) -> str:
    """Return what the model gives: what this run has trained, or the one that it began with."""
    trained = _trained(config)
    names = ", ".join(PHENOTYPE_BY_NAME[p].title for p in config.phenotypes[:6])
    more = " ..." if len(config.phenotypes) > 6 else ""
    outputs = {
        "phenotypes": f"{len(config.phenotypes)} CMR phenotypes ({names}{more})",
        "diseases": f"{len(config.diseases)} disease probabilities",
        "generative": "a synthetic four-chamber cine",
    }
    found = [words for stage, words in outputs.items() if stage in trained]
    if not found:
        return (
            "nothing that a reader could use comes out yet: no head and no generator was trained."
        )
    return f"out come {', and '.join(found)}. Only what was trained is listed."


def _trained(config: RunConfig) -> set[str]:
    """Return the stages of this run, and of the one that it began with."""
    return {*config.stages, *config.start.stages}


def cine_line(config: RunConfig) -> str:
    """Return the line on cines, in front of it the end of a line; nothing where none was seen."""
    stages = [STAGES[name] for name in _trained(config) if name in STAGES]
    seen = {member.modality for stage in stages for member in stage.members or (stage,)}
    if not seen & {"cine", "pairs"}:
        return ""
    cine = config.model.cine
    return f"\n- Cine: {cine.size_px} px of {cine.pixel_mm:g} mm, {cine.phases} phases."


def secure_line(config: RunConfig) -> str:
    """Return the line on secure aggregation, in front of it the end of a line; nothing without."""
    secure = config.secure_aggregation
    if not secure.enabled:
        return ""
    least = f"{secure.threshold}" if secure.threshold else "two thirds of those asked, and one more"
    return (
        "\n- Secure aggregation: of each round of training the coordinator learned the weighted "
        f"mean over its sites\n  (at least {least}) and no single update. It gives no epsilon; "
        "handshake and evaluation\n  go without it (docs/secure_aggregation.md)."
    )


def virtual_words(config: RunConfig) -> str:
    """Return what must be said where some patients were computed."""
    return f"\n\n**Virtual patients.** {COHORT_DISCLAIMER}" if config.virtual else ""


def results_line(config: RunConfig, warnings: Sequence[str] = ()) -> str:
    """Return where the held-out results stand, and what noise may have left of them.

    Args:
        config: of the run.
        warnings: `privacy.warnings` of the summary.
    """
    if "evaluate" not in config.stages:
        return "- Held-out results: none, the run has no stage `evaluate`."
    where = "`summary.json`, key `metrics`."
    if not config.privacy.is_on:
        return f"- Held-out results, with 95 % intervals where they have one: {where}"
    left = "".join(f"\n  **{text}**" for text in warnings if NOT_MEMBERSHIP not in text)
    return (
        f"- Held-out results: {where} Their sums, and the numbers of patients in them, were noised "
        f"at each site;\n  intervals of R2 and MAE are of that noise alone.{left}"
    )


def start_line(config: RunConfig) -> str:
    """Return the model card's line on the weights that the run began with."""
    start = config.start
    if not start.is_on:
        return "Began with random weights."
    virtual = ", of a run on virtual hearts in part" if start.virtual else ""
    return (
        f"Began with {', '.join(start.parts)} of the weights with SHA-256\n  `{start.sha256}`"
        f"{virtual}. What is said of privacy here does not cover who trained those."
    )


def _memory(config: RunConfig, metrics: Mapping[str, Any]) -> str:
    """Return what is said of memorisation where there is a generator that could repeat cines."""
    if "generative" not in _trained(config):
        return ""
    return f"\n{memorisation_line(metrics, private=config.privacy.is_on)}"


def memorisation_line(metrics: Mapping[str, Any], *, private: bool = False) -> str:
    """Return the model card's line on how near generated cines come to training cines.

    Args:
        metrics: held-out results (docs/summary.md); empty without the stage `evaluate`.
        private: the run was differentially private, and so looked at no generated cine.
    """
    memory = metrics.get("pooled", {}).get("generation", {}).get("memory", {})
    ratio = memory.get("ratio") or {}
    if ratio.get("value") is None and private:
        return (
            "- Memorisation of training cines by the generator: not measured, since distances to "
            "patients' own cines\n  have no useful bound per patient and would be one more "
            "release. What limits it is epsilon, above.\n  `make privacy`, section attacks, counts "
            "copies of a small generator with and without privacy; to judge\n  this plan, run it "
            "on public or virtual patients (docs/privacy.md, Audit)."
        )
    if ratio.get("value") is None:
        return "- Memorisation of training cines by the generator: not measured."
    low, high = ratio.get("low"), ratio.get("high")
    interval = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
    return (
        f"- Memorisation: generated cines lie {ratio['value']:.2f}{interval} times as far from the "
        "nearest training cine\n  of their site as real held-out cines do; far below 1 is copying."
    )
