"""Peak memory of our server over a few rounds of N sites, in a process of its own (figure 9).

python -m simulations.faults.server_memory SITES FOLDER

Everything on the server's side is real: the plan, the round loop, the firewall, the exact mean, the
checkpoint after every round. The sites are files (replies.py). Prints the growth of this process's
peak memory, from before the model was made, in sizes of the whole model; the size of the model in
bytes; and the share of it that the largest stage trains.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cardionets_core.flower_compat import task_identity
from cardionets_core.models.cardionet import PARTS, build_model
from cardionets_core.runtime import return_freed_memory, set_up
from cardionets_core.training.stages import STAGES
from server.exchange import Run
from server.server_app import begin, execute
from simulations.faults.peak import forget_peak, peak_bytes
from simulations.faults.replies import Replies
from simulations.faults.small import plan
from simulations.grid import SERVER_NODE_ID

MODEL = (
    # `small` with half its depth: large beside everything else in the process, and quick.
    "model=small",
    "model.ecg_encoder.depth=3",
    "model.cmr_encoder.depth=3",
    "model.generator.encoder_depth=2",
    "model.generator.decoder_depth=2",
    "stages=[handshake,contrastive,generative]",
    "stage.contrastive.rounds=2",
    "stage.generative.rounds=1",
)
"""`contrastive` trains the largest share of the model; `generative` sends frozen parts, too."""


def main(sites: int, folder: Path) -> None:
    """Run the rounds and print the three numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    config = plan("memory", MODEL, sites=sites)
    set_up(config.threads)
    return_freed_memory()
    # A model without weights: what its imports allocate is no part of the measurement.
    parts = build_model(config.sized_model(), device="meta")
    sizes = {p: sum(t.nbytes for t in parts.get_submodule(p).state_dict().values()) for p in PARTS}
    model = sum(sizes.values())
    largest = max(sum(sizes[p] for p in STAGES[s].trains) for s in config.stages if s in STAGES)
    before = forget_peak()
    run = Run(Replies(sites, folder, len(config.phenotypes)), config, folder, lambda record: None)
    with task_identity(run_id=1, node_id=SERVER_NODE_ID):
        state = execute(run, begin(config, folder))
    used = {len(record["accepted"]) for record in state.history}
    if used != {sites}:
        raise SystemExit(f"rounds used {sorted(used)} sites of {sites}")
    found = ((peak_bytes() - before) / model, model, largest / model)
    sys.stdout.write(" ".join(map(str, found)) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
