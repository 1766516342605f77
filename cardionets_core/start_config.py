"""Plain settings of what a run begins with: the weights of an earlier run, where it names one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StartConfig:
    """Which weights a run begins with instead of random ones (docs/rounds.md).

    The last three say which weights `checkpoint` held when the run was planned; they are filled in
    then, so that the run's hash covers them and a folder that has changed since is refused.

    Attributes:
        checkpoint: folder of another run's checkpoint at the coordinator; empty: random weights.
        parts: parts of the model that are taken from it; empty: every part that it has trained.
        sha256: of its weights.
        stages: that its run had finished, of those that trained one of `parts`.
        virtual: whether its run says that it was trained on virtual hearts in part.
    """

    checkpoint: str = ""
    parts: tuple[str, ...] = ()
    sha256: str = ""
    stages: tuple[str, ...] = ()
    virtual: bool = False

    def __post_init__(self) -> None:
        """Refuse parts of nothing."""
        if self.parts and not self.checkpoint:
            raise ValueError(
                f"parts names {', '.join(self.parts)} and checkpoint is empty; name the folder of "
                "a checkpoint (outputs/RUN/checkpoint) as start.checkpoint"
            )
        if len(set(self.parts)) != len(self.parts):
            raise ValueError("parts: a part stands twice")

    @property
    def is_on(self) -> bool:
        """Whether the run begins with other weights than random ones."""
        return bool(self.checkpoint)
