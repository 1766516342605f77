"""What we use of Flower beyond its documentation; a red test here means: read before upgrading."""

from __future__ import annotations

import ast
import inspect
import os
import re
import time
import tomllib
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import typer
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.cli.flower_config import read_superlink_connection
from flwr.common import constant as common_constant
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore import constant, telemetry
from flwr.supercore.cli import flower_superexec
from flwr.supercore.fab import Fab
from flwr.supercore.superexec import run_superexec
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.cli import flower_superlink
from flwr.supernode import start_client_internal
from flwr.supernode.cli import flower_supernode, flwr_clientapp
from flwr.supernode.runtime import run_clientapp

from cardionets_core import flower_command, flower_compat, flower_site
from cardionets_core.errors import ConfigError
from client import launch as client_launch
from client import warm
from server import launch as server_launch
from simulations.preparation import SERVER_APP_PROGRAM

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cardionets_core", "server", "client", "simulations")
PUBLIC = {"flwr", "flwr.app", "flwr.clientapp", "flwr.serverapp"}
HOME, SECRET = Path("/run/home"), Path("/run/secret")
TLS = flower_command.ServerTls(Path("/c.pem"), Path("/k.pem"), Path("/ca.crt"))


def test_the_pinned_version_is_the_one_installed_and_described():
    pins = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert f"flwr=={flower_compat.FLOWER_VERSION}" in [pin.split("#")[0].strip() for pin in pins]
    assert version("flwr") == flower_compat.FLOWER_VERSION


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_private_modules_of_flower_have_two_doors():
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            flower = {name for name in imported(path) if name.split(".")[0] == "flwr"}
            private = {n for n in flower if n not in PUBLIC and not n.startswith("flwr.serverapp.")}
            if path not in (Path(flower_compat.__file__), Path(flower_site.__file__)):
                assert not private, f"{path.relative_to(ROOT)} imports {sorted(private)}"


def test_messages_need_an_identity_and_take_ours():
    with pytest.raises(RuntimeError, match="TaskIdentity"):
        Message(RecordDict(), 2, "train")
    with flower_compat.task_identity(run_id=5, node_id=1, task_id=3):
        message = Message(RecordDict(), 2, "train")
    metadata = message.metadata
    assert (metadata.run_id, metadata.src_node_id, metadata.src_task_id) == (5, 1, 3)
    flower_compat.stamp_message_id(message, "abc")
    assert message.metadata.message_id == "abc"
    with pytest.raises(RuntimeError, match="TaskIdentity"):
        Message(RecordDict(), 2, "train")


def test_error_replies_are_worded_as_flowers():
    source = inspect.getsource(run_clientapp)
    assert """str(type(ex)) + ":<'" + str(ex) + "'>\"""" in source
    assert common_constant.ErrorCode.CLIENT_APP_RAISED_EXCEPTION == flower_compat.CLIENT_APP_RAISED


def test_nodes_have_the_fields_that_we_read():
    assert {"node_id", "name", "status"} <= set(NodeInfo.DESCRIPTOR.fields_by_name)


def test_apps_are_started_by_name_so_that_ours_can_stand_in():
    names = constant.TASK_TYPE_TO_COMMAND
    assert names[constant.TaskType.CLIENT_APP] == warm.PROGRAM
    assert names[constant.TaskType.SERVER_APP] == SERVER_APP_PROGRAM
    assert "subprocess.Popen(args)" in inspect.getsource(SubprocessExecutor.launch)
    assert "parse_args()" in inspect.getsource(flwr_clientapp)  # from sys.argv, which we set
    assert flower_compat.client_app_program() is flwr_clientapp


def test_the_pauses_of_the_supernode_are_where_we_shorten_them():
    source = inspect.getsource(start_client_internal)
    assert start_client_internal.time is time
    assert set(re.findall(r"\btime\.(\w+)", source)) == {"sleep"}  # all that our stand-in has
    assert "time.sleep(3)" in source


def test_an_upload_is_interrupted_when_a_part_of_it_has_arrived(monkeypatch):
    monkeypatch.setattr(run_clientapp, "push_objects", run_clientapp.push_objects)
    assert "push_objects(" in inspect.getsource(run_clientapp.push_message)
    arrived, seen = [], []
    flower_site.around_upload(
        within=lambda: seen.append(len(arrived)), after=lambda: seen.append("all")
    )
    content = RecordDict({"c": ConfigRecord({"k": 1})})
    run_clientapp.push_objects(
        {content.object_id: content, content["c"].object_id: content["c"]},
        lambda name, _: arrived.append(name),
        object_ids_to_push={content.object_id, content["c"].object_id},
        max_concurrent_pushes=1,
    )
    assert len(arrived) == 2 and seen == [1, 2, "all"]


def test_short_sleeps_are_short(monkeypatch):
    slept = []
    monkeypatch.setattr(flower_site.time, "sleep", slept.append)
    pauses = flower_site._ShortSleeps(0.5)
    pauses.sleep(3)
    pauses.sleep(0.1)
    assert slept == [0.5, 0.1]


def test_the_environment_switches_still_mean_something(monkeypatch):
    env = flower_command.quiet_environment(HOME, 0.25)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert run_superexec._get_task_poll_interval() == 0.25
    assert not flower_superlink.__globals__["_runtime_dependency_install_default"]()
    assert constant.FLWR_DISABLE_UPDATE_CHECK in env
    assert common_constant.FLWR_HOME in env
    assert 'os.getenv("FLWR_TELEMETRY_ENABLED"' in inspect.getsource(telemetry)


SUPERLINKS = [
    server_launch.superlink(port=1234, home=HOME, secret=SECRET),
    server_launch.superlink(port=1234, home=HOME, secret=SECRET, database=Path("/db"), tls=TLS),
    server_launch.superlink(port=1, home=HOME, secret=SECRET, tls=TLS, require_node_keys=True),
    server_launch.superlink(port=1, home=HOME, secret=SECRET, simulation=True),
]


@pytest.mark.parametrize("command", SUPERLINKS)
def test_superlink_lines_parse(command):
    parser = flower_superlink.__globals__["_parse_args_run_superlink"]()
    args = parser.parse_args(command.argv[1:])
    assert args.host == "127.0.0.1" and args.isolation == "process"
    assert args.superexec_auth_secret_file == str(SECRET)
    assert args.runtime_dependency_install is False
    assert args.insecure is (args.ssl_certfile is None)


def test_node_keys_without_tls_are_refused_before_flower_does():
    with pytest.raises(ConfigError, match="TLS"):
        server_launch.superlink(port=1, home=HOME, secret=SECRET, require_node_keys=True)


@pytest.mark.parametrize("authority", [None, Path("/ca.crt")])
def test_superexec_lines_parse(authority):
    command = server_launch.superexec(
        port=7, home=HOME, secret=SECRET, outputs=Path("/out"), root_certificates=authority
    )
    args = flower_superexec.__globals__["_parse_args"]().parse_args(command.argv[1:])
    assert args.runtime_api_address == "127.0.0.1:7"
    assert args.insecure is (authority is None) and not args.runtime_dependency_install
    assert command.env["CARDIONETS_OUTPUTS"] == "/out"


@pytest.mark.parametrize(("authority", "poll"), [(None, None), (Path("/ca.crt"), 0.5)])
def test_supernode_lines_parse_and_say_nothing_of_the_site(authority, poll):
    command = client_launch.supernode(
        Path("/etc/site.yaml"),
        superlink="host:8443",
        port=9201,
        home=HOME,
        root_certificates=authority,
        node_key=Path("/node.key"),
        poll_s=poll,
    )
    arguments = command.argv[1:] if poll is None else command.argv[4:]
    parser = flower_supernode.__globals__["_parse_args_run_supernode"]()
    args = parser.parse_args(arguments)
    assert args.superlink == "host:8443" and args.port == 9201 and args.host == "127.0.0.1"
    assert args.insecure is (authority is None)
    assert args.auth_supernode_private_key == "/node.key"
    assert command.env["SITE_CONFIG"] == "/etc/site.yaml"
    assert not args.node_config and "site.yaml" not in " ".join(command.argv)


CLI_LINES = [
    server_launch.submit({"run": "a-1", "config-hash": "f00"}, home=HOME),
    server_launch.submit({}, home=HOME, federation_config={"num-supernodes": 8}),
    server_launch.list_runs(home=HOME),
    server_launch.list_runs(home=HOME, run_id=5),
    server_launch.list_nodes(home=HOME),
    server_launch.stop(5, home=HOME),
]


@pytest.mark.parametrize("command", CLI_LINES, ids=lambda c: " ".join(c.argv[1:3]))
def test_cli_lines_parse(command):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Flower's use of typer, not ours
        from flwr.cli.app import app as flwr_cli

        program = typer.main.get_command(flwr_cli)
    words = list(command.argv[1:])
    while hasattr(program, "commands"):
        name = words.pop(0)
        program = program.commands[name]
    context = program.make_context(name, words)
    assert context.params["superlink"] == server_launch.CONNECTION


def test_run_config_values_reach_flower_as_they_are():
    values = {"run": "a b", "n": 3, "x": 0.5, "on": True}
    line = server_launch.submit(values, home=HOME).argv
    text = line[line.index("--run-config") + 1]
    from flwr.common.config import parse_config_args

    assert parse_config_args([text]) == values
    with pytest.raises(ConfigError, match="quotes"):
        server_launch.submit({"run": 'a"b'}, home=HOME)


@pytest.mark.parametrize("authority", [None, Path("/ca.crt")])
def test_flower_reads_the_connection_that_we_write(tmp_path, monkeypatch, authority):
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    server_launch.write_connection(tmp_path, port=4321, root_certificates=authority)
    connection = read_superlink_connection(server_launch.CONNECTION)
    assert connection.address == "127.0.0.1:4321"
    assert bool(connection.insecure) is (authority is None)


def test_unknown_run_config_keys_are_refused(tmp_path):
    fused = flower_compat.fuse_run_config(server_launch.BUNDLE, {"run": "x"})
    assert fused == {"run": "x", "config-hash": ""}
    with pytest.raises(ValueError, match="rum"):
        flower_compat.fuse_run_config(server_launch.BUNDLE, {"rum": "x"})


def test_the_input_of_a_task_is_kept_until_its_reply_travels(monkeypatch):
    """A second process of the same task gets what the first one was given, and asks nobody."""
    for name in ("pull_task_input", "push_message"):
        assert f"{name}(" in inspect.getsource(run_clientapp.run_clientapp)
    monkeypatch.setattr(run_clientapp, "push_message", lambda *given: pushed.append(given))
    pulled, pushed, kept = [], [], os.memfd_create("input")
    content = RecordDict({"c": ConfigRecord({"k": 1}), "a": ArrayRecord([np.arange(3.0)])})
    context = Context(5, 9, {"n": 1}, RecordDict(), {"r": "x"}, 7)

    def pull(client):
        assert client == "client"
        pulled.append(client)
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 3, 5, 9
        message = Message(content, 9, "train", ttl=60.0)
        flower_compat.stamp_message_id(message, "abc")
        return message, context, flower_compat.empty_run(5), Fab("hash", b"bundle", {"v": "w"})

    def again():
        with flower_compat.task_identity(run_id=1, node_id=1, task_id=1):
            monkeypatch.setattr(run_clientapp, "pull_task_input", pull)
            flower_site.keep_task_input(kept)
            given = run_clientapp.pull_task_input("client")
            assert (TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id) == (3, 5, 9)
            return given

    first, second = again(), again()
    assert len(pulled) == 1
    assert vars(second[0].metadata) == vars(first[0].metadata)
    assert second[0].content == first[0].content == content
    assert second[1] == first[1] and second[2].run_id == 5 and second[3] == first[3]
    run_clientapp.push_message("client", *second[:2])
    assert len(pushed) == 1 and os.pread(kept, 8, 0) == b""
