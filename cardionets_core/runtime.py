"""The machine under the model: seeds, device, threads, versions."""

from __future__ import annotations

import ctypes
import hashlib
import platform
from importlib import metadata

import torch

M_MMAP_THRESHOLD = -3
"""mallopt's number for the size from which an allocation is its own (malloc.h)."""


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


def return_freed_memory() -> None:
    """Give what is free back to the system now, and large arrays from now on as they are freed.

    glibc keeps what was freed below a threshold that grows to 32 MB with use, in the hope that it
    is asked for again (mallopt(3)): a server that folds updates of 20 MB would keep several. A
    fixed threshold of 1 MiB costs a page fault where a larger array is made. Other C libraries are
    left alone.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 2**20)
        libc.malloc_trim(0)


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
