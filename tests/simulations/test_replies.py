"""The sites of figure 9 are files; the server must take what they say as it takes a real reply."""

from __future__ import annotations

from cardionets_core.flower_compat import task_identity
from server.exchange import Run
from server.server_app import begin, execute
from simulations.faults.replies import Replies
from simulations.faults.small import NANO, plan
from simulations.grid import SERVER_NODE_ID


def test_the_server_uses_the_replies_of_sites_that_are_files(tmp_path):
    stages = ("stages=[handshake,contrastive]", "stage.contrastive.rounds=2")
    config = plan("memory", (*NANO, *stages), sites=2)
    records = []
    run = Run(Replies(2, tmp_path, len(config.phenotypes)), config, tmp_path, records.append)
    with task_identity(run_id=1, node_id=SERVER_NODE_ID):
        state = execute(run, begin(config, tmp_path))
    assert [r["accepted"] for r in state.history] == [["site00", "site01"]] * 3
    assert len(records) == 3
