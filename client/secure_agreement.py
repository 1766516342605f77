"""What a site asks before it opens a sum: that the others were told what it was told.

A server that tells sites different lists of who came could open the sum of a few of them. Sites
that know each other's verification keys open nothing before a threshold of them have signed the
same; for others the threshold alone must be high enough (docs/secure_aggregation.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cardionets_core.privacy.secure_aggregation.protocol import ProtocolError, Terms
from cardionets_core.privacy.secure_aggregation.signatures import (
    SIGNATURE_BYTES,
    agreeing,
    lists_mark,
    sign_lists,
)
from cardionets_core.privacy.secure_aggregation.thresholds import fewest_opened

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cardionets_core.privacy_config import SitePrivacy
    from client.secure_session import Session
    from client.site import Site


def require_hidden(terms: Terms, privacy: SitePrivacy) -> None:
    """Check that no lists open a sum over fewer sites than this hospital asks for.

    A site that has peers opens nothing under lists that differ, whatever the threshold.

    Raises:
        ProtocolError: they do.
    """
    opened = fewest_opened(len(terms.roster), terms.threshold)
    if not privacy.peers and opened < privacy.secure_sites:
        raise ProtocolError(
            f"with a threshold of {terms.threshold} among {len(terms.roster)} sites a coordinator "
            f"that lies can open a sum over {opened}; privacy.secure_sites is "
            f"{privacy.secure_sites} here"
        )


def agreement(session: Session, terms: Terms, site: Site, came: list[str]) -> bytes:
    """Return this site's signature under what it was told: terms, training, and who came."""
    mark = lists_mark(terms, trained=session.asked["train"], came=came)
    key_file = site.config.privacy.signing_key
    return sign_lists(mark, session=session.name, site=site.name, key_file=key_file)


def require_agreed(
    session: Session,
    terms: Terms,
    site: Site,
    came: list[str],
    said: NDArray[np.generic] | None,
) -> None:
    """Check that enough sites of a sum were told what this one was told.

    Each site signs once in a session: its terms, what it was asked to train, and who came. So two
    different statements cannot both bear a threshold of signatures.

    Args:
        session: before the sum is opened.
        terms: of it.
        site: this hospital.
        came: who is said to be in the sum.
        said: the signatures that came with the question, a row for each site of the roster.

    Raises:
        ProtocolError: this site has signed another list; or, where it knows its peers, none, or too
            few of them have signed the same.
    """
    if session.agreed and list(session.agreed) != came:
        raise ProtocolError("a sum is to be opened over other sites than this one has signed")
    peers = site.config.privacy.peers
    if not peers:
        return
    if not session.agreed:
        raise ProtocolError("a sum is to be opened, and nobody has asked who came (agree)")
    if said is None or said.dtype != np.uint8 or said.shape != (len(terms.roster), SIGNATURE_BYTES):
        raise ProtocolError("the signatures of who came are missing, or of another size")
    others = [name for name in terms.roster if name in came and name != site.name]
    signatures = {name: said[terms.number(name) - 1].tobytes() for name in others}
    mark = lists_mark(terms, trained=session.asked["train"], came=came)
    signed = [site.name, *agreeing(mark, signatures, session=session.name, peers=peers)]
    if len(signed) < terms.threshold:
        raise ProtocolError(
            f"what this site was told is signed by {len(signed)} of those in the sum; "
            f"{terms.threshold} are needed"
        )
