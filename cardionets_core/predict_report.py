"""`cardionets predict`: one record in; a folder with JSON, a page, NIfTI cines and a GIF out."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from cardionets_core import drawing
from cardionets_core.checkpoint import read_info
from cardionets_core.data.cmr_write import write_synthetic
from cardionets_core.ecg_checks import DISPLAY_BAND_HZ, display_filter
from cardionets_core.errors import ConfigError
from cardionets_core.inference import load_predictor, was_trained
from cardionets_core.vocabulary import (
    COHORT_DISCLAIMER,
    DISEASES,
    LEADS,
    MAIN_PHENOTYPES,
    PHENOTYPES,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cardionets_core.checkpoint import CheckpointInfo
    from cardionets_core.inference import DiseaseEstimate, PhenotypeEstimate, Prediction

FORMAT = 1
"""Version of prediction.json."""

RESEARCH_ONLY = "Research use only; not a medical device. Do not use for diagnosis or treatment."

SYNTHETIC = (
    "Synthetic: drawn by a generative model from the ECG. It is not an image of this patient, and "
    "what it shows of anatomy that an ECG cannot carry is invented."
)

VIEW_TITLES = {"4ch": "four-chamber long axis", "sax": "mid-ventricular short axis"}

USELESS_R2 = 0.05
"""Held-out R2 below which an estimate is shown as no better than the mean."""

USELESS_AUROC = 0.55
"""Held-out AUROC below which a probability is shown as no better than chance."""

ESTIMATING = ("phenotypes", "diseases", "generative")
"""The stages that a prediction shows something of."""

SCREEN_PX = 208
"""About how wide a moving cine is on the page."""

SHOWN_SAMPLES = 4
"""Samples side by side on the page; all of them are written as NIfTI."""


def predict_record(
    checkpoint: Path,
    ecg: Path,
    out: Path,
    *,
    samples: int = 4,
    seed: int = 0,
    device: str = "cpu",
) -> Path:
    """Predict from one WFDB record and write the results.

    Args:
        checkpoint: the `checkpoint` folder of a run.
        ecg: the record's header (.hea).
        out: folder to write; it must be new or empty. It appears when everything is written.
        samples: cines to generate.
        seed: of the cines.
        device: `auto`, `cpu` or `cuda`.

    Returns:
        the page, `out/prediction.html`; beside it prediction.json, cine.gif, cine.nii.gz
        and one more NIfTI per further sample.

    Raises:
        ConfigError: `out` holds something already, or no sample was asked for.
        CheckpointError: see `read_checkpoint`.
        DataError: the record cannot be used.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is not empty; name another folder with --out, or remove it.")
    if samples < 1:
        raise ConfigError(f"samples is {samples}; ask for at least 1.")
    predictor = load_predictor(checkpoint, device)
    prediction = predictor.predict(ecg, samples=samples, seed=seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        _write_all(building, prediction, predictor.info, name=ecg.stem)
        building.chmod(0o755)
        if out.exists():
            out.rmdir()
        building.rename(out)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return out / "prediction.html"


def not_trained(checkpoint: Path) -> str:
    """Return what a checkpoint does not estimate because its run did not train it; "" if nothing.

    Raises:
        CheckpointError: see `read_info`.
    """
    info = read_info(checkpoint)
    stages = [stage for stage in ESTIMATING if not was_trained(info, stage)]
    if not stages:
        return ""
    said = "this checkpoint estimates nothing" if len(stages) == len(ESTIMATING) else "left out"
    return f"{said}: stages {', '.join(stages)} not trained"


def _write_all(folder: Path, prediction: Prediction, info: CheckpointInfo, *, name: str) -> None:
    for file, cine in zip(_cine_files(prediction), prediction.cines, strict=True):
        write_synthetic(
            folder / file,
            cine,
            pixel_mm=prediction.pixel_mm,
            phase_s=prediction.cycle_s / len(cine),
            description="CardioNets synthetic cine; research use, not a medical device",
        )
    gif = _gif(prediction)
    if gif:
        (folder / "cine.gif").write_bytes(gif)
    facts = describe(prediction, info, name=name)
    (folder / "prediction.json").write_text(json.dumps(facts, indent=1, allow_nan=False) + "\n")
    (folder / "prediction.html").write_text(render(prediction, info, name=name, gif=gif))


def describe(prediction: Prediction, info: CheckpointInfo, *, name: str) -> dict[str, Any]:
    """Return prediction.json: every number with its unit and where it comes from."""
    record = prediction.record
    return {
        "format": FORMAT,
        "notice": [RESEARCH_ONLY, *_training_notice(info)],
        "record": {
            "name": name,
            "sampling_rate_hz": record.sampling_rate_hz,
            "seconds": round(record.signal.shape[1] / record.sampling_rate_hz, 3),
            "leads_missing": [
                lead for lead, seen in zip(LEADS, record.lead_mask, strict=True) if not seen
            ],
            "heart_rate_bpm": _rounded(prediction.heart_rate),
            "remarks": list(prediction.remarks),
        },
        "interval": "90 %: value +- 1.645 sqrt(residual_sd^2 + crop_sd^2 / crops)",
        "phenotypes": [
            {k: _rounded(v) for k, v in asdict(p).items()} for p in prediction.phenotypes
        ],
        "diseases": [{k: _rounded(v) for k, v in asdict(d).items()} for d in prediction.diseases],
        "not_estimated": list(prediction.not_estimated),
        "cines": {
            "notice": SYNTHETIC,
            "view": prediction.view,
            "files": _cine_files(prediction),
            "pixel_mm": prediction.pixel_mm,
            "phases": prediction.cines.shape[1],
            "cycle_s": _rounded(prediction.cycle_s),
            "end_systolic_phase": [drawing.end_systole(c) for c in prediction.cines],
            "seed": prediction.seed,
        },
        "model": _model_facts(info),
    }


def render(prediction: Prediction, info: CheckpointInfo, *, name: str, gif: bytes) -> str:
    """Return the page: one HTML file that needs no other."""
    record = prediction.record
    low, high = DISPLAY_BAND_HZ
    rate = f"{prediction.heart_rate:.0f}/min" if prediction.heart_rate else "not readable"
    seconds = record.signal.shape[1] / record.sampling_rate_hz
    strip = drawing.ecg_strip(
        display_filter(record),
        record.lead_mask,
        record.sampling_rate_hz,
        title=f"{name}   heart rate {rate}",
        note=f"{low:g}-{high:g} Hz   {record.sampling_rate_hz:g} Hz sampling, {seconds:.1f} s",
    )
    main = [p for n in MAIN_PHENOTYPES for p in prediction.phenotypes if p.name == n]
    rest = [p for p in prediction.phenotypes if p not in main]
    environment = Environment(
        loader=PackageLoader("cardionets_core", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("prediction.html.jinja").render(
        name=name,
        research_only=RESEARCH_ONLY,
        notices=_training_notice(info),
        remarks=prediction.remarks,
        strip=drawing.data_uri(strip),
        strip_text=_strip_text(prediction, rate),
        main=[_row(p) for p in main],
        rest=[_row(p) for p in rest],
        has_intervals=any(p.low is not None for p in prediction.phenotypes),
        crops=prediction.crops,
        diseases=[
            _disease_row(d) for d in sorted(prediction.diseases, key=lambda d: -d.probability)
        ],
        left_out=_titles(prediction.not_estimated),
        synthetic=SYNTHETIC,
        view=VIEW_TITLES.get(prediction.view, prediction.view),
        gif=drawing.data_uri(gif, "image/gif"),
        frames=_frames(prediction),
        fidelity=_fidelity(info),
        files=_cine_files(prediction),
        shown=min(SHOWN_SAMPLES, len(prediction.cines)),
        cycle=f"{prediction.cycle_s:.2f} s",
        cycle_is_own=prediction.heart_rate is not None,
        model=_model_facts(info),
    )


def _cine_files(prediction: Prediction) -> list[str]:
    count = len(prediction.cines)
    return ["cine.nii.gz", *[f"cine_{i}.nii.gz" for i in range(2, count + 1)]][:count]


def _gif(prediction: Prediction) -> bytes:
    shown: Sequence[Any] = list(prediction.cines[:SHOWN_SAMPLES])
    if not shown:
        return b""
    scale = max(1, round(SCREEN_PX / shown[0].shape[-1]))
    return drawing.cine_gif(shown, cycle_s=prediction.cycle_s, scale=scale)


def _frames(prediction: Prediction) -> str:
    shown = prediction.cines[:SHOWN_SAMPLES]
    if not len(shown):
        return ""
    labelled = {f"Sample {i}": cine for i, cine in enumerate(shown, 1)}
    return drawing.data_uri(drawing.frames_panel(labelled))


def _fidelity(info: CheckpointInfo) -> str:
    """Return how far such cines could be trusted on held-out patients; empty if not measured."""
    found = info.metrics.get("pooled", {}).get("generation", {}).get("fidelity", {})
    means = found.get("average", {})
    drawn, real = (
        means.get(kind, {}).get("r", {}).get("value") for kind in ("conditional", "real")
    )
    if drawn is None or real is None:
        return ""
    return (
        "On held-out patients, phenotypes measured on one such cine agreed with the truth with a "
        f"mean r of {_signed(drawn, 2)} (on real cines {_signed(real, 2)}; 0 is chance)."
    )


def _titles(names: Sequence[str]) -> str:
    """Return the names of what was left out, for people."""
    words = {p.name: p.title for p in PHENOTYPES} | DISEASES | {"cine": "synthetic cine"}
    return ", ".join(words[n] for n in names)


def _disease_row(d: DiseaseEstimate) -> dict[str, Any]:
    return {
        "title": d.title,
        "probability": f"{d.probability:.0%}",
        "width": f"{100 * d.probability:.1f}",
        "prevalence": "not measured" if d.prevalence is None else f"{d.prevalence:.0%}",
        "auroc": "not measured" if d.auroc is None else f"{d.auroc:.2f}",
        "weak": d.auroc is None or d.auroc < USELESS_AUROC,
    }


def _row(p: PhenotypeEstimate) -> dict[str, Any]:
    """Return a line of the phenotype table as texts, and its picture's places in per cent."""
    digits = 0 if p.sd >= 5 else 1 if p.sd >= 0.5 else 2
    axis = (p.mean - 3 * p.sd, 6 * p.sd)

    def place(value: float) -> str:
        return f"{100 * min(max((value - axis[0]) / axis[1], 0.0), 1.0):.1f}"

    row: dict[str, Any] = {
        "title": p.title,
        "unit": p.unit.replace("mm2", "mm²").replace("1e-3/", "10⁻³/"),
        "value": _signed(p.value, digits),
        "interval": "not known",
        "usual": f"{_signed(p.mean - p.sd, digits)} to {_signed(p.mean + p.sd, digits)}",
        "r2": "not measured" if p.r2 is None else _signed(p.r2, 2),
        "weak": p.r2 is not None and p.r2 < USELESS_R2,
        "at": place(p.value),
        "left": place(p.value),
        "span": "0",
    }
    if p.low is not None and p.high is not None:
        row["interval"] = f"{_signed(p.low, digits)} to {_signed(p.high, digits)}"
        row["left"] = place(p.low)
        row["span"] = f"{float(place(p.high)) - float(place(p.low)):.1f}"
    return row


def _strip_text(prediction: Prediction, rate: str) -> str:
    """Return what stands for the picture where it cannot be seen."""
    seen = int(np.sum(prediction.record.lead_mask))
    return f"12-lead ECG at 25 mm/s, {seen} of 12 leads, heart rate {rate}"


def _training_notice(info: CheckpointInfo) -> list[str]:
    """Say that the model learnt from virtual hearts, unless the checkpoint says that it did not."""
    if info.provenance.get("virtual") is False:
        return []
    return [f"Trained at least in part on virtual hearts. {COHORT_DISCLAIMER}"]


def _model_facts(info: CheckpointInfo) -> dict[str, Any]:
    versions = info.provenance.get("versions", {})
    return {
        "run": str(info.provenance.get("run", "unknown")),
        "preset": info.model.preset,
        "config_hash": str(info.provenance.get("config_hash", "unknown")),
        "weights_sha256": info.sha256,
        "sites": sorted(info.provenance.get("sites", {})),
        "stages": [str(s) for s in info.provenance.get("stages_done", [])],
        "version": str(versions.get("cardionets", "unknown")),
    }


def _signed(value: float, digits: int) -> str:
    """Return the number with a real minus sign and never as -0."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def _rounded(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value
