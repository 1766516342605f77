"""The in-process Grid behaves towards both apps as Flower's own does."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

from cardionets_core.errors import ConfigError, EngineError
from cardionets_core.flower_compat import TaskIdentity, task_identity
from simulations.grid import InProcessGrid, run_in_process

SITES = {"north": Path("/sites/north.yaml"), "south": Path("/sites/south.yaml")}
BUNDLE = """
[project]
name = "t"
version = "1"
[tool.flwr.app]
publisher = "t"
[tool.flwr.app.components]
serverapp = "a:app"
clientapp = "b:app"
[tool.flwr.app.config]
rounds = 1
"""


def make_client() -> ClientApp:
    app = ClientApp()

    def seen(message, context, kind):
        count = int(context.state["calls"]["n"]) + 1 if "calls" in context.state else 1
        context.state["calls"] = MetricRecord({"n": count})
        facts = {"kind": kind, "site": os.environ["SITE_CONFIG"], "run": context.run_id}
        return Message(
            RecordDict({"facts": ConfigRecord({**facts, "calls": count})}), reply_to=message
        )

    app.train()(lambda m, c: seen(m, c, "train"))
    app.evaluate()(lambda m, c: seen(m, c, "evaluate"))
    app.query()(lambda m, c: seen(m, c, "query"))
    app.train("special")(lambda m, c: seen(m, c, "train.special"))

    @app.query("fail")
    def fail(message, context):
        raise ZeroDivisionError("no patients")

    @app.query("meddle")
    def meddle(message, context):
        message.content["config"]["round"] = 99
        del message.content["arrays"]
        return Message(RecordDict(), reply_to=message)

    return app


@pytest.fixture
def grid():
    with task_identity(run_id=7, node_id=1):
        yield InProcessGrid(make_client(), SITES, run_config={"rounds": 2}, run_id=7)


def ask(grid, kind, node=2, content=None):
    return Message(content or RecordDict(), node, kind)


@pytest.mark.parametrize("kind", ["train", "evaluate", "query", "train.special"])
def test_messages_reach_the_function_of_their_type(grid, kind):
    (reply,) = grid.send_and_receive([ask(grid, kind)])
    assert reply.content["facts"]["kind"] == kind
    assert reply.metadata.message_type == kind
    assert reply.content["facts"]["run"] == 7


def test_each_site_sees_its_own_file_and_the_environment_is_put_back(grid, monkeypatch):
    monkeypatch.setenv("SITE_CONFIG", "before")
    replies = grid.send_and_receive([ask(grid, "train", node) for node in grid.get_node_ids()])
    assert [r.content["facts"]["site"] for r in replies] == [str(p) for p in SITES.values()]
    assert os.environ["SITE_CONFIG"] == "before"
    monkeypatch.delenv("SITE_CONFIG")
    grid.send_and_receive([ask(grid, "train")])
    assert "SITE_CONFIG" not in os.environ


def test_a_failure_is_a_reply_with_flowers_code_and_text(grid):
    good, bad = ask(grid, "train", 2), ask(grid, "query.fail", 3)
    replies = grid.send_and_receive([bad, good])
    assert replies[0].has_error() and not replies[1].has_error()
    assert replies[0].error.code == 2
    assert replies[0].error.reason == "<class 'ZeroDivisionError'>:<'no patients'>"
    assert replies[0].metadata.src_node_id == 3
    (site, failure), *others = grid.failures
    assert site == "south" and isinstance(failure, ZeroDivisionError) and not others


def test_an_unknown_message_type_is_an_error_reply_too(grid):
    (reply,) = grid.send_and_receive([ask(grid, "train.nothing")])
    assert reply.error.code == 2


def test_replies_are_found_by_message_id_and_come_once(grid):
    first, second = grid.push_messages([ask(grid, "train"), ask(grid, "evaluate", 3)])
    assert first != second
    (reply,) = grid.pull_messages([second])
    assert reply.metadata.reply_to_message_id == second
    assert reply.content["facts"]["kind"] == "evaluate"
    assert grid.pull_messages([second]) == []
    assert grid.pull_messages(["nobody"]) == []
    assert grid.pull_messages([first])[0].metadata.reply_to_message_id == first


def test_work_begins_when_its_reply_is_asked_for(grid):
    (message_id,) = grid.push_messages([ask(grid, "query.fail")])
    assert grid.failures == []
    grid.pull_messages([message_id])
    assert len(grid.failures) == 1


def test_state_is_kept_per_site(grid):
    for _ in range(2):
        grid.send_and_receive([ask(grid, "train", 2)])
    north, south = grid.send_and_receive([ask(grid, "train", 2), ask(grid, "train", 3)])
    assert (north.content["facts"]["calls"], south.content["facts"]["calls"]) == (3, 1)


def test_a_site_cannot_change_the_servers_records(grid):
    content = RecordDict(
        {"config": ConfigRecord({"round": 1}), "arrays": ArrayRecord({"w": Array(np.ones(3))})}
    )
    grid.send_and_receive([ask(grid, "query.meddle", content=content)])
    assert content["config"]["round"] == 1
    assert np.array_equal(content["arrays"]["w"].numpy(), np.ones(3))


def test_a_message_to_nobody_is_refused(grid):
    with pytest.raises(EngineError, match="node 9"):
        grid.push_messages([ask(grid, "train", 9)])


def test_nodes_are_listed_as_flower_does_without_keys(grid):
    nodes = list(grid.get_nodes())
    assert [n.node_id for n in nodes] == [2, 3] == grid.get_node_ids()
    assert [n.status for n in nodes] == ["online", "online"]
    assert [n.name for n in nodes] == ["", ""]  # names come with registered keys only


def test_flowers_own_strategy_runs_unchanged(tmp_path):
    client, server = ClientApp(), ServerApp()

    @client.train()
    def train(message, context):
        site = 1.0 if os.environ["SITE_CONFIG"].endswith("north.yaml") else 4.0
        weights = message.content["arrays"]["w"].numpy() + site
        return Message(
            RecordDict(
                {
                    "arrays": ArrayRecord({"w": Array(weights)}),
                    "metrics": MetricRecord({"num-examples": 2 if site == 1.0 else 1}),
                }
            ),
            reply_to=message,
        )

    results = []

    @server.main()
    def main(grid, context):
        strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=2, min_available_nodes=2)
        start = ArrayRecord({"w": Array(np.zeros(2))})
        rounds = context.run_config["rounds"]
        results.append(strategy.start(grid=grid, initial_arrays=start, num_rounds=rounds))

    run_in_process(server, client, run_config={"rounds": 3}, sites=SITES)
    # Every round adds the weighted mean (2 * 1 + 1 * 4) / 3 = 2.
    np.testing.assert_allclose(results[0].arrays["w"].numpy(), [6.0, 6.0])


def make_bundle(folder: Path) -> Path:
    (folder / "pyproject.toml").write_text(BUNDLE)
    return folder


def test_a_run_sees_its_configuration_and_outputs_and_leaves_no_trace(tmp_path, monkeypatch):
    monkeypatch.delenv("CARDIONETS_OUTPUTS", raising=False)
    identity = vars(TaskIdentity).copy()
    server, seen = ServerApp(), {}

    @server.main()
    def main(grid, context):
        seen.update(context.run_config, outputs=os.environ["CARDIONETS_OUTPUTS"])
        Message(RecordDict(), 2, "train")  # the server may make messages

    bundle = make_bundle(tmp_path)
    context = run_in_process(
        server,
        make_client(),
        run_config={},
        sites=SITES,
        bundle=bundle,
        outputs=tmp_path,
        run_id=5,
    )
    assert seen == {"rounds": 1, "outputs": str(tmp_path)}
    assert context.run_id == 5
    assert "CARDIONETS_OUTPUTS" not in os.environ
    assert vars(TaskIdentity).copy() == identity


def test_what_the_server_raises_comes_out_as_it_is():
    server = ServerApp()

    @server.main()
    def main(grid, context):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run_in_process(server, make_client(), run_config={}, sites=SITES)


def test_an_unknown_key_is_refused_before_the_run(tmp_path):
    with pytest.raises(ConfigError, match="ronds"):
        run_in_process(
            ServerApp(),
            make_client(),
            run_config={"ronds": 3},
            sites=SITES,
            bundle=make_bundle(tmp_path),
        )


def test_no_site_is_refused():
    with pytest.raises(ConfigError, match="at least one site"):
        run_in_process(ServerApp(), make_client(), run_config={}, sites={})
