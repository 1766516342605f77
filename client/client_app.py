"""The ClientApp that Flower starts at a hospital; one process per message.

This is the wall: one `except` turns every failure into a code. Flower would forward the text of an
exception to the server, and texts hold file paths, and file paths hold patients' names.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from flwr.app import Message
from flwr.clientapp import ClientApp

from cardionets_core.errors import (
    UPDATE_REFUSALS,
    CheckpointError,
    ConfigError,
    DataError,
    PrivacyError,
    SiteError,
    WireError,
)
from cardionets_core.faults import FAULTS_ENV, fault_point
from cardionets_core.lifetime import end_hung
from cardionets_core.messages import refusal, task_from_records, update_to_records

if TYPE_CHECKING:
    from flwr.app import Context, RecordDict

    from cardionets_core.messages import Notice

log = logging.getLogger("cardionets.site")
app = ClientApp()

CODES: dict[type[Exception], str] = {
    DataError: "data",
    CheckpointError: "wire",
    WireError: "wire",
}
"""What the coordinator learns of an error of ours; of any other it learns `internal`."""


def _answer(message: Message, context: Context) -> Message:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line per request of Flower's
    if FAULTS_ENV in os.environ:
        from cardionets_core.flower_site import around_upload

        around_upload(
            within=lambda: fault_point("half_uploaded"), after=lambda: fault_point("acknowledged")
        )
    return Message(answer(message.content), reply_to=message)


def _answer_in_time(message: Message, context: Context) -> Message:
    # It carries no budget that a loop could keep; nobody reads an answer after its time to live.
    end_hung(message.metadata.ttl)
    return _answer(message, context)


def answer(content: RecordDict) -> RecordDict:
    """Serve one task and return what may leave the site."""
    try:
        # Imported inside the wall: an installation that is broken must not speak either.
        from client.local_training import serve
        from client.site import open_site

        task = task_from_records(content)
        tell(task.header.notice)
        reply = update_to_records(serve(task, open_site()))
        fault_point("packed")
        return reply
    except SiteError as error:
        log.warning("answered with the code %r", error.code)
        return refusal(error.code)
    except PrivacyError as error:
        log.warning("answered with the code %r; this stays here: %s", error.code, error)
        return refusal(error.code)
    except ConfigError as error:  # it names the key and the next step: no stack is needed
        log.error("answered with the code 'config'; this stays here: %s", error)
        return refusal("config")
    except Exception as error:
        code = next((c for kind, c in CODES.items() if isinstance(error, kind)), "internal")
        log.exception("answered with the code %r; the reason stays here", code)
        return refusal(code)


def tell(notice: Notice | None) -> None:
    """Say on the site's own console that its last answer was not used.

    The words are the site's own: of a notice only a known code is believed.
    """
    if notice is None:
        return
    why = UPDATE_REFUSALS.get(notice.code, "no reason that this version knows")
    log.warning(
        "the coordinator did not use our answer to stage %.40r, round %d (%.40r): %s",
        notice.stage,
        notice.round,
        notice.code,
        why,
    )


app.query()(_answer)
app.train()(_answer)
app.evaluate()(_answer_in_time)
