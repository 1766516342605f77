"""Both apps: the server times how long arrays take to a site and back."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

client = ClientApp()
server = ServerApp()


@client.train()
def echo(message: Message, _context: Context) -> Message:
    """Send back other arrays of the same sizes: the same ones would not travel a second time."""
    arrays = message.content["arrays"]
    changed = ArrayRecord({k: Array(a.numpy() + np.float32(1)) for k, a in arrays.items()})
    return Message(RecordDict({"arrays": changed}), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Send each round's arrays and note the seconds until they are back."""
    settings = context.run_config
    while not list(grid.get_node_ids()):
        time.sleep(0.2)
    (node,) = grid.get_node_ids()
    rng = np.random.default_rng(0)
    for count in (int(word) for word in str(settings["counts"]).split(",")):
        size = int(settings["bytes"]) // 4 // count
        arrays = {f"a{i}": Array(rng.random(size, dtype=np.float32)) for i in range(count)}
        content = RecordDict({"arrays": ArrayRecord(arrays)})
        began = time.monotonic()
        message = Message(content, dst_node_id=node, message_type="train")
        (reply,) = grid.send_and_receive([message], timeout=900)
        assert len(reply.content["arrays"]) == count
        line = {"arrays": count, "seconds": time.monotonic() - began}
        with Path(str(settings["record"])).open("a") as file:
            file.write(json.dumps(line) + "\n")
