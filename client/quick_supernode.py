"""`flower-supernode` that resumes cut uploads and may ask for messages more often than every 3 s.

Flower drops a reply when the link goes at the wrong moment of its upload; here it is announced
again and what is missing is sent (cardionets_core/flower_site.py). And Flower writes the interval
between two questions for messages into its loop, without a flag; where a round takes seconds, that
would be most of it.

    python -m client.quick_supernode SECONDS [arguments of flower-supernode]
"""

from __future__ import annotations

import sys

from cardionets_core.flower_site import run_supernode

if __name__ == "__main__":
    longest_pause = float(sys.argv.pop(1))
    sys.argv[0] = "flower-supernode"
    run_supernode(longest_pause)
