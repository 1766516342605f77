"""What Flower sends of a hospital by itself: docs/privacy.md lists it; what is new is noticed."""

from __future__ import annotations

from pathlib import Path

import flwr.supernode
import pytest
from flwr.proto import error_pb2, fleet_pb2, heartbeat_pb2, message_pb2

from tests.privacy_page import section

NODE = {"node"}
LISTED = {
    # ids, the site's clock, and whether a message belongs to a task: nothing of its content
    message_pb2.Metadata: {
        *("run_id", "message_id", "reply_to_message_id", "group_id", "src_node_id", "dst_node_id"),
        *("src_task_id", "dst_task_id", "message_type", "ttl", "created_at"),
    },
    message_pb2.Message: {"metadata", "content", "error"},
    error_pb2.Error: {"code", "reason"},
    fleet_pb2.PushMessagesRequest: NODE
    | {"messages_list", "message_object_trees", "clientapp_runtime_list"},
    fleet_pb2.PullMessagesRequest: NODE | {"message_ids"},
    fleet_pb2.RegisterNodeFleetRequest: {"public_key"},
    fleet_pb2.ActivateNodeRequest: {"public_key", "heartbeat_interval"},
    heartbeat_pb2.SendNodeHeartbeatRequest: NODE | {"heartbeat_interval"},
}


@pytest.mark.parametrize(
    ("kind", "names"), LISTED.items(), ids=lambda v: getattr(v, "__name__", "")
)
def test_a_message_of_flower_has_no_field_that_nobody_has_looked_at(kind, names):
    assert {field.name for field in kind.DESCRIPTOR.fields} == names


def test_the_page_says_what_they_tell():
    (told,) = [e for e in section("What is not covered").split("\n- ") if "What Flower sends" in e]
    words = ("duration", "clock", "ids", "sign of life", "error text", "log", "telemetry")
    assert [word for word in words if word not in told] == []


def test_a_supernode_sends_no_lines_of_a_log():
    """Flower has an uploader of logs; at a hospital nothing calls it."""
    sources = list(Path(flwr.supernode.__file__).parent.rglob("*.py"))
    assert any("SendNodeHeartbeat" in s.read_text("utf-8") for s in sources)
    for word in ("log_uploader", "PushLogs"):
        assert [s.name for s in sources if word in s.read_text("utf-8")] == []
