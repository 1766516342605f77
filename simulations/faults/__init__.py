"""Faults on purpose: kills, cuts and corruption, and the table of what they cost.

How a kill is made to happen at one line of code. The apps hold named fault points
(cardionets_core/faults.py), which are empty unless the environment names a folder of plan files.
A file asks for one fault at a point, in a round, at a site (plan.py):

- Who comes to the point itself dies there, by SIGKILL: the ServerApp, a site's client process.
- For a SuperLink or a SuperNode, the process that comes there is held while the harness kills its
  victim, and then goes on, as a process does whose neighbour has died.

Nothing is restarted by the harness: that is the work of the supervision under which an operator's
processes run (simulations/supervised.py). What it compares with a run that nothing happened to is
the SHA-256 of the weights after every round and at the end, the sites of every round, and the files
in which each site remembers the run (harness.py, kills.py, client_kills.py).

The points at the coordinator, in the order of a round: between_rounds, sent_none, sent_some,
no_replies, mid_aggregation (an update is folded in), some_replies, all_replies,
aggregated_not_saved, saved_not_committed (new weights lie there, the JSON still names the old),
committed_not_announced; and plan_stored, at every start of a ServerApp. At a site: received,
loading, mid_epoch, trained, ledger_written (its memory and its answer are on disk), packed,
half_uploaded (its SuperNode has a part of the reply), acknowledged (it has all; for the SuperNode:
the server has used it).
"""
