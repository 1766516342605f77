"""What is wrong with a coordinator's certificate, told apart by OpenSSL's own codes."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from client.checks.findings import Finding, error, warning

if TYPE_CHECKING:
    from client.checks.connection import Connection

EXPIRES_SOON_DAYS = 30

_EXPIRED, _NOT_YET, _HOST, _ADDRESS = 10, 9, 62, 64
"""Verify codes of x509_vfy.h: expired, not yet valid, host and address mismatch."""


def last_moment(certificate: Mapping[str, Any]) -> datetime:
    """Return until when a verified certificate (SSLSocket.getpeercert) holds."""
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)


def untrusted(cause: ssl.SSLCertVerificationError, host: str, connection: Connection) -> Finding:
    """Say why a certificate was not believed."""
    who = "Ask the coordinator for"
    if cause.verify_code == _EXPIRED:
        return error(
            "connection",
            "certificate_expired",
            f"The certificate of {host} has expired.",
            cause="Its last day is over by this machine's clock.",
            next_step=f"{who} a renewed certificate; check this machine's clock first (date).",
        )
    if cause.verify_code == _NOT_YET:
        return error(
            "connection",
            "certificate_not_yet",
            f"The certificate of {host} is not valid yet.",
            cause="Its first day is still to come by this machine's clock, which may be behind.",
            next_step="Check the clock (date); then ask the coordinator.",
        )
    if cause.verify_code in (_HOST, _ADDRESS):
        return error(
            "connection",
            "certificate_host",
            f"The certificate of the coordinator is not for the name {host}.",
            cause="The address was written differently from the certificate, or this is another "
            "server.",
            next_step=f"Use the name that the certificate holds; or {who[0].lower()}{who[1:]} one "
            "that holds this name.",
        )
    return error(
        "connection",
        "certificate_authority",
        f"The certificate of {host} was not signed by the authority in "
        f"{connection.root_certificates}.",
        cause="The file is that of another authority, or something on the way (a proxy that "
        f"inspects TLS) shows its own certificate. OpenSSL says: {cause.verify_message}.",
        next_step=f"{who} the authority's certificate; ask the network team not to inspect "
        "connections to the coordinator.",
    )


def expires_soon(connection: Connection, expires: datetime, now: datetime) -> list[Finding]:
    """Warn of a certificate that ends within a month."""
    days = (expires - now).days
    if days >= EXPIRES_SOON_DAYS:
        return []
    return [
        warning(
            "connection",
            "certificate_expires_soon",
            f"The certificate of {connection.superlink} ends in {days} days ({expires:%Y-%m-%d}).",
            cause="From that day on no site can connect, also in the middle of a run.",
            next_step="Ask the coordinator to renew it in time.",
        )
    ]
