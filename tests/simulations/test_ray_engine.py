"""Virtual sites find their files; with Ray installed, a run goes through."""

from __future__ import annotations

import importlib.util
import json
import os
import tomllib
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from cardionets_core.errors import ConfigError, EngineError
from cardionets_core.flower_compat import task_identity
from server.launch import BUNDLE
from simulations import ray_client, ray_engine

HAS_RAY = importlib.util.find_spec("ray") is not None

SERVER = """
import json, os, time
from pathlib import Path
from flwr.app import Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    while len(nodes := list(grid.get_node_ids())) < 4:
        time.sleep(0.1)
    replies = grid.send_and_receive([Message(RecordDict(), node, "train") for node in nodes])
    sites = sorted(reply.content["facts"]["site"] for reply in replies)
    folder = Path(os.environ["CARDIONETS_OUTPUTS"]) / context.run_config["run"]
    (folder / "sites.json").write_text(json.dumps(sites))
"""
CLIENT = """
import os
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.train()
def train(message, context):
    site = open(os.environ["SITE_CONFIG"]).read()
    return Message(RecordDict({"facts": ConfigRecord({"site": site})}), reply_to=message)
"""


def make_folder(folder: Path, count: int) -> dict[str, Path]:
    folder.mkdir(parents=True)
    sites = {f"virtual-{i:03d}": folder / f"virtual-{i:03d}.yaml" for i in range(count)}
    for name, path in sites.items():
        path.write_text(name)
    return sites


def test_partitions_are_files_sorted_by_name(tmp_path):
    sites = make_folder(tmp_path / "sites", 12)
    found = [ray_client.virtual_site(i, tmp_path / "sites") for i in range(12)]
    assert found == list(sites.values())
    for outside in (-1, 12):
        with pytest.raises(ConfigError, match=f"virtual site {outside} of 12"):
            ray_client.virtual_site(outside, tmp_path / "sites")


def test_the_wrapped_app_sees_the_site_of_each_message(tmp_path, monkeypatch):
    make_folder(tmp_path / "sites", 3)
    monkeypatch.setenv(ray_client.VIRTUAL_SITES_ENV, str(tmp_path / "sites"))
    monkeypatch.setenv("SITE_CONFIG", "before")
    inner = ClientApp()

    @inner.query()
    def query(message, context):
        content = RecordDict({"facts": ConfigRecord({"site": os.environ["SITE_CONFIG"]})})
        return Message(content, reply_to=message)

    app, seen = ray_client.VirtualSites(inner), []
    with task_identity(run_id=1, node_id=1):
        for partition in (2, 0):
            context = Context(1, 9, {"partition-id": partition}, RecordDict(), {})
            reply = app(Message(RecordDict(), 9, "query"), context)
            seen.append(Path(reply.content["facts"]["site"]).name)
    assert seen == ["virtual-002.yaml", "virtual-000.yaml"]


def test_the_virtual_bundle_differs_in_its_client_only(tmp_path):
    folder = ray_engine.write_virtual_bundle(BUNDLE, tmp_path / "bundle")
    ours = tomllib.loads((BUNDLE / "pyproject.toml").read_text())
    virtual = tomllib.loads((folder / "pyproject.toml").read_text())
    components = virtual["tool"]["flwr"]["app"]["components"]
    assert components["clientapp"] == "simulations.ray_client:app"
    components["clientapp"] = ours["tool"]["flwr"]["app"]["components"]["clientapp"]
    assert virtual == ours


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed")
def test_without_ray_the_extra_is_named_and_nothing_is_written(tmp_path):
    sites = make_folder(tmp_path / "sites", 1)
    with pytest.raises(EngineError, match=r"pip install 'cardionets\[ray\]'"):
        ray_engine.run_with_ray(tmp_path / "run", sites, run_config={"run": "run"})
    assert not (tmp_path / "run").exists()


@pytest.mark.engine
@pytest.mark.skipif(not HAS_RAY, reason="needs the extra `ray`")
def test_four_virtual_sites_answer(tmp_path):
    sites = make_folder(tmp_path / "sites", 4)
    (tmp_path / "apps").mkdir()
    (tmp_path / "apps" / "virtual_server.py").write_text(SERVER)
    (tmp_path / "apps" / "virtual_client.py").write_text(CLIENT)
    (tmp_path / "bundle").mkdir()
    text = (BUNDLE / "pyproject.toml").read_text()
    (tmp_path / "bundle" / "pyproject.toml").write_text(
        text.replace("server.server_app:app", "virtual_server:app")
    )
    env = {
        "PYTHONPATH": str(tmp_path / "apps"),
        ray_client.CLIENT_APP_ENV: "virtual_client:app",
    }
    folder = tmp_path / "run"
    with ray_engine.RayFederation(folder, sites, bundle=tmp_path / "bundle", env=env) as federation:
        state = federation.wait(federation.submit({"run": "run"}), seconds=500)
        assert state.completed, (folder / "logs" / "serverapp.log").read_text()
    assert json.loads((folder / "sites.json").read_text()) == list(sites)
    assert federation.processes.members() == []
