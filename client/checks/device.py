"""The computer that would train: its device, its workers, and what a trial on it says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from client.checks.findings import Finding, error, ok, warning

if TYPE_CHECKING:
    from cardionets_core.site_config import SiteConfig
    from client.checks.findings import Trial
    from client.checks.machine import Machine

MEMORY_SHARE = 0.8
"""Share of the main memory above which a trial leaves too little for Flower and the caches."""


def check_device(config: SiteConfig, machine: Machine) -> list[Finding]:
    """Compare what the YAML asks for with what is there."""
    found: list[Finding] = []
    has_cuda = machine.has_cuda()
    if config.device == "cuda" and not has_cuda:
        found.append(
            error(
                "device",
                "device_cuda",
                "device is cuda, and PyTorch finds no usable GPU.",
                cause="There is none, its driver is missing, or the CPU build of PyTorch is "
                "installed.",
                next_step="See nvidia-smi; install PyTorch for CUDA, or set device: auto.",
            )
        )
    found += _check_workers(config.workers, machine.cores)
    if not found:
        used = "GPU (CUDA)" if has_cuda and config.device != "cpu" else "CPU"
        memory = f", {machine.memory_bytes / 1e9:.0f} GB memory" if machine.memory_bytes else ""
        found.append(ok("device", f"Trains on the {used}; {machine.cores} cores{memory}."))
    return found


def _check_workers(workers: int, cores: int) -> list[Finding]:
    if workers < 1:
        return [
            error(
                "device",
                "workers_none",
                f"workers is {workers}.",
                cause="It is the number of processes that prepare records: at least one must.",
                next_step=f"Set it between 1 and {cores}, the cores of this machine.",
            )
        ]
    if workers <= cores:
        return []
    return [
        warning(
            "device",
            "workers_many",
            f"workers is {workers}, and this account may use {cores} cores.",
            cause="More processes than cores take turns, and each holds records in memory.",
            next_step=f"Set it to {cores} or fewer.",
        )
    ]


def check_trial(trial: Trial, deadline_s: float, machine: Machine) -> list[Finding]:
    """Judge the speed and the memory of a trial.

    Args:
        trial: what it measured.
        deadline_s: seconds that a coordinator waits for a round of that stage by default.
        machine: knows the main memory.
    """
    times = (
        "without privacy; rounds of private tasks, the only ones that this site takes, were not "
        "timed"
        if trial.private_only
        else f"{in_words(trial.epoch_s)} per epoch, {in_words(trial.round_s)} per round"
    )
    found = [
        ok(
            "device",
            f"Trial of {trial.stage} on {trial.device}: {trial.records_per_s:.3g} records/s, "
            f"{times}, {trial.peak_bytes / 1e9:.1f} GB memory.",
        )
    ]
    if trial.round_s > deadline_s and not trial.private_only:
        found.append(
            warning(
                "device",
                "too_slow",
                f"A round of {trial.stage} would take {in_words(trial.round_s)}.",
                cause=f"By default a coordinator waits {in_words(deadline_s)} for it and then goes "
                "on without this site.",
                next_step="Use a GPU or a smaller preset, or ask the coordinator for a longer "
                f"stage.{trial.stage}.deadline_s.",
            )
        )
    on_cpu = trial.device == "cpu"
    if on_cpu and machine.memory_bytes and trial.peak_bytes > MEMORY_SHARE * machine.memory_bytes:
        found.append(
            warning(
                "device",
                "memory_low",
                f"Training takes {trial.peak_bytes / 1e9:.1f} GB of "
                f"{machine.memory_bytes / 1e9:.1f} GB main memory.",
                cause="What else runs here may push it out, and the system ends it then.",
                next_step="Use a machine with more memory, or a smaller preset.",
            )
        )
    return found


def no_trial() -> Finding:
    """Say that speed and memory were not measured."""
    return warning(
        "device",
        "no_trial",
        "No trial was trained.",
        cause="--trial-seconds is 0.",
        next_step="Check once with the default before the first run.",
    )


def in_words(seconds: float) -> str:
    """Return a duration as people say it."""
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
