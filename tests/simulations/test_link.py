"""The relay of the fault tests: it changes no byte, is as slow as asked, and cuts in place."""

from __future__ import annotations

import http.client
import http.server
import os
import random
import threading
import time

import pytest

from cardionets_core.errors import EngineError
from simulations.faults.link import Cut, Link
from simulations.faults.packets import TUN
from simulations.faults.relay import Follower

ANSWER = b"abc" * 50_000
PATHS = {
    "announce": "/v1/fleet/push-messages",
    "upload": "/v1/fleet/push-object",
    "download": "/v1/fleet/pull-object",
    "received": "/v1/fleet/confirm-message-received",
}


class Superlink(http.server.BaseHTTPRequestHandler):
    """Keeps what it is sent; answers a pull with ANSWER."""

    protocol_version = "HTTP/1.1"
    got: list[bytes]

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if len(body) < int(self.headers["content-length"]):
            return  # the connection was cut
        self.got.append(body)
        answer = ANSWER if self.path == PATHS["download"] else b"ok"
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *words):
        """Be quiet."""


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """A cut connection is what is tested."""


@pytest.fixture
def superlink():
    got: list[bytes] = []
    server = Server(("127.0.0.1", 0), type("Handler", (Superlink,), {"got": got}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port, got
    server.shutdown()
    server.server_close()


def ask(link: Link, what: str, body: bytes = b"") -> tuple[bytes, int]:
    """Ask until there is an answer, as a SuperNode does; return it and the tries."""
    for tries in range(1, 200):
        connection = http.client.HTTPConnection("127.0.0.1", link.plan.port, timeout=30)
        try:
            connection.request("POST", PATHS[what], body)
            return connection.getresponse().read(), tries
        except (OSError, http.client.HTTPException):
            time.sleep(0.05)
        finally:
            connection.close()
    raise AssertionError("no answer")


def send_round(link: Link, update: bytes) -> None:
    """Pull a task and push a reply in two objects, as a SuperNode does."""
    assert ask(link, "download")[0] == ANSWER
    ask(link, "received")
    ask(link, "announce", b"a reply comes")
    ask(link, "upload", update)
    ask(link, "upload", b"second")


def test_every_byte_passes_and_is_counted(superlink, tmp_path):
    port, got = superlink
    with Link(tmp_path, port) as link:
        for size in (100_000, 70_000):
            send_round(link, bytes(size))
        assert link.sizes("up") == {0: 100_006, 1: 70_006}
        assert link.sizes("down") == {0: len(ANSWER), 1: len(ANSWER)}
    assert [len(b) for b in got if len(b) > 100] == [100_000, 70_000]
    link.stop()  # a second time does nothing


def test_an_upload_whose_answer_does_not_pass_is_told(superlink, tmp_path):
    port, _ = superlink
    cut = Cut("up", message=0, at_bytes=100_000, seconds=0.1)
    with Link(tmp_path, port, cuts=[cut]) as link:
        send_round(link, bytes(100_000))
        events = link.events()
    (told,) = [e for e in events if e["event"] == "unanswered"]
    assert (told["way"], told["message"], told["size"]) == ("up", 0, 100_000)
    uploads = [e for e in events if e["event"] == "object" and e["way"] == "up"]
    assert [e["passed"] for e in uploads] == [100_000, 100_000, 6]


@pytest.mark.parametrize("silent", [False, True])
def test_a_cut_comes_where_it_was_asked_for_and_once(superlink, tmp_path, silent):
    port, got = superlink
    cuts = [
        Cut("up", message=1, at_bytes=50_000, seconds=0.4, silent=silent),
        Cut("down", message=1, at_bytes=90_000, seconds=0.4, silent=silent),
    ]
    with Link(tmp_path, port, cuts=cuts) as link:
        for _ in range(3):
            send_round(link, bytes(100_000))
        events = link.events()
    assert [len(b) for b in got if len(b) > 100] == [100_000] * 3
    whole, broken = [], []
    for event in events:
        if event["event"] == "object":
            (whole if event["passed"] == event["size"] else broken).append(event)
    assert [e["size"] for e in whole if e["way"] == "up"] == [100_000, 6] * 3
    cut = [e for e in events if e["event"] == "cut"]
    back = [e for e in events if e["event"] == "restored"]
    assert [(e["way"], e["message"]) for e in cut] == [("down", 1), ("up", 1)]
    assert all(b["time"] - a["time"] >= 0.39 for a, b in zip(cut, back, strict=True))
    if silent:
        assert not broken
        return
    at = {e["way"]: e["passed"] for e in broken}
    assert 50_000 <= at["up"] < 54_096 + 4096 and 90_000 <= at["down"] < 98_192


def test_a_slow_far_link_takes_its_time(superlink, tmp_path):
    """60,000 bytes at 1 Mbit/s are 0.48 s, and three round trips of 0.1 s come on top."""
    port, _ = superlink
    with Link(tmp_path, port, bits_per_s=1e6, delay_s=0.05) as link:
        began = time.monotonic()
        ask(link, "upload", bytes(60_000))
        took = time.monotonic() - began
    assert took >= 0.48 + 0.15


def test_a_relay_that_cannot_start_is_said(tmp_path):
    link = Link(tmp_path, 1)
    with Link(tmp_path / "other", 1) as other:
        vars(link)["plan"] = type(link.plan)(other.plan.port, 1, link.plan.events)
        with pytest.raises(EngineError, match="did not start"), link:
            pass


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_the_follower_sees_messages_however_they_are_torn(step):
    stream = (
        b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
        b"POST /b HTTP/1.1\r\ncontent-length: 0\r\n\r\n"
        b"GET /c HTTP/1.1\r\n\r\nPOST /d HTTP/1.1\r\nContent-Length: 3\r\n\r\n\r\n\n"
    )
    follower, begun = Follower(), []
    for at in range(0, len(stream), step):
        begun += follower.feed(stream[at : at + step])
    assert [(b.path, b.size, b.passed) for b in begun] == [
        ("/a", 5, 5),
        ("/b", 0, 0),
        ("/c", 0, 0),
        ("/d", 3, 3),
    ]


@pytest.mark.skipif(os.geteuid() != 0 or not TUN.exists(), reason="wants root and /dev/net/tun")
def test_packets_are_lost_and_no_byte_is(superlink, tmp_path):
    """TCP sends the lost ones again; a round trip takes twice the delay, over real packets."""
    port, got = superlink
    update = random.Random(3).randbytes(200_000)
    with Link(tmp_path, port, delay_s=0.02, loss=0.02) as link:
        began = time.monotonic()
        send_round(link, update)
        assert time.monotonic() - began >= 5 * 0.04
        assert link.sizes("down") == {0: len(ANSWER)}
    assert update in got
