"""A link that loses packets: real TCP over two network namespaces, for `Link(..., loss=...)`.

python -m simulations.faults.packets PLAN      (LinkPlan as JSON; root only)

`tc netem` does this where the kernel has it; here two TUN devices do, each in a network namespace
that is gone with this process. Every IP packet between them waits for its turn at the link's speed,
then for its delay, and some are dropped; the kernel's own TCP makes of it what it can. A relay on
either side joins the namespaces to loopback, so that SuperNode and SuperLink need not be told.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from random import Random

from simulations.faults.link import LinkPlan, read_plan
from simulations.faults.relay import Relay, end_with_stdin, listener

TUN = Path("/dev/net/tun")
NEAR, FAR, FAR_PORT = "10.77.0.1", "10.77.0.2", 9000
QUEUE_S = 0.5
"""What the link's queue holds, in seconds at its speed; a packet that finds it full is lost."""

CONGESTION = b"cubic"
"""What hospitals' machines use unless somebody chose otherwise; it takes loss for congestion."""

MTU = 1500
NEW_NETWORK = 0x40000000
"""CLONE_NEWNET of sched.h."""

SET_INTERFACE, TUN_WITHOUT_INFO = 0x400454CA, 0x1001
"""TUNSETIFF; IFF_TUN | IFF_NO_PI of if_tun.h."""


class Namespace:
    """A network namespace with one TUN device, held by this process alone."""

    def __init__(self, address: str) -> None:
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY)
        _check(ctypes.CDLL(None, use_errno=True).unshare(NEW_NETWORK), "unshare")
        try:
            self._own = os.open("/proc/self/ns/net", os.O_RDONLY)
            self.tun = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(self.tun, SET_INTERFACE, struct.pack("16sH22x", b"wan0", TUN_WITHOUT_INFO))
            for words in (f"addr add {address}/30 dev wan0", f"link set wan0 mtu {MTU} up"):
                subprocess.run(["ip", *words.split()], check=True)
        finally:
            self._enter(self._home)

    def socket(self) -> socket.socket:
        """Return a new TCP socket that lives in this namespace."""
        self._enter(self._own)
        try:
            end = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        finally:
            self._enter(self._home)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, CONGESTION)
        return end

    @staticmethod
    def _enter(namespace: int) -> None:
        _check(ctypes.CDLL(None, use_errno=True).setns(namespace, NEW_NETWORK), "setns")


class Wire:
    """Carries packets from one TUN device to another: slowly, late, and not all of them."""

    def __init__(self, plan: LinkPlan, source: int, sink: int, seed: int) -> None:
        self._plan, self._source, self._sink = plan, source, sink
        self._random = Random(seed)
        self._loop = asyncio.get_running_loop()
        self._free = 0.0
        self._loop.add_reader(source, self._take)

    def _take(self) -> None:
        packet = os.read(self._source, 2 * MTU)
        now = self._loop.time()
        full = self._free - now > QUEUE_S
        if full or self._random.random() < self._plan.loss:
            return
        self._free = max(now, self._free)
        if self._plan.bits_per_s:
            self._free += 8 * len(packet) / self._plan.bits_per_s
        self._loop.call_at(self._free + self._plan.delay_s, os.write, self._sink, packet)


def _check(result: int, what: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), f"{what} failed; it wants root")


async def _main(plan: LinkPlan) -> None:
    near, far = Namespace(NEAR), Namespace(FAR)
    wires = [Wire(plan, near.tun, far.tun, seed=1), Wire(plan, far.tun, near.tun, seed=2)]
    assert len(wires) == 2  # held here: the loop knows their methods only
    # The wire is what is slow; the relays pass on what they get.
    quick = replace(plan, bits_per_s=0.0, delay_s=0.0)
    inner = far.socket()
    inner.bind((FAR, FAR_PORT))

    async def across() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        end = near.socket()
        await asyncio.get_running_loop().sock_connect(end, (FAR, FAR_PORT))
        return await asyncio.open_connection(sock=end)

    with open(plan.events, "a", encoding="utf-8") as events, open(os.devnull, "w") as nowhere:
        outer = Relay(quick, events, connect=across)
        onward = Relay(replace(quick, cuts=()), nowhere)
        await asyncio.gather(onward.serve(inner), outer.serve(listener(plan.port)))


if __name__ == "__main__":
    threading.Thread(target=end_with_stdin, daemon=True).start()
    asyncio.run(_main(read_plan(sys.argv[1])))
