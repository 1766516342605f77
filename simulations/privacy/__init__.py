"""The privacy table: what docs/privacy.md claims, measured; `python -m simulations.privacy`.

A section is a function `(work: Path) -> Iterator[Row]` that yields rows as they are measured. Each
section runs in a process of its own with a limit on its time, so that one that hangs, runs out of
memory or breaks costs its own rows and no others, and no random state is shared between two.
"""
