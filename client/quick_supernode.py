"""`flower-supernode` that asks for messages more often than every 3 seconds.

Flower writes that interval into its loop, without a flag or a variable. Between hospitals, where a
round takes minutes, it does not matter and plain `flower-supernode` is what runs; on one machine,
where a round may take seconds, it would be most of the round.

    python -m client.quick_supernode SECONDS [arguments of flower-supernode]
"""

from __future__ import annotations

import sys

from cardionets_core.flower_compat import run_supernode

if __name__ == "__main__":
    longest_pause = float(sys.argv.pop(1))
    sys.argv[0] = "flower-supernode"
    run_supernode(longest_pause)
