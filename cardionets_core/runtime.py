"""The machine under the model: seeds, device, threads, versions."""

from __future__ import annotations

import hashlib
import platform
from importlib import metadata

import torch


def derive_seed(*words: str | int) -> int:
    """Return a 63-bit seed that depends on every word: the same words, the same seed, anywhere."""
    text = "\x1f".join(str(w) for w in words)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def set_up(threads: int) -> None:
    """Fix what PyTorch may vary: CPU threads (they change the order of sums) and algorithms.

    Args:
        threads: CPU threads per process, at least 1.
    """
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())


def pick_device(wish: str) -> torch.device:
    """Return the device for `auto`, `cpu` or `cuda`; `auto` is CUDA where there is one."""
    if wish == "auto":
        wish = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wish)


def autocast(device: torch.device) -> torch.autocast:
    """Return bf16 autocast on CUDA, a no-op on the CPU (where bf16 is slower and less exact)."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    names = ("cardionets", "flwr", "torch", "numpy", "scipy", "wfdb", "nibabel", "mlflow")
    found = {n: _version(n) for n in names}
    return {"python": platform.python_version(), **found}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
