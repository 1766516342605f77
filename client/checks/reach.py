"""The way to the coordinator, step by step: name, port, TLS handshake, an answer, its clock."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse
from typing import TYPE_CHECKING

from client.checks.certificate import expires_soon, last_moment, untrusted
from client.checks.connection import (
    Connection,
    Proxy,
    check_settings,
    describe_proxy,
    not_checked,
    proxy_for,
    reached,
)
from client.checks.findings import Finding, error, warning

if TYPE_CHECKING:
    from client.checks.machine import Machine

TIMEOUT_S = 5.0
PATH = "/v1/fleet/pull-messages"
"""A path of Flower's fleet API; a GET changes nothing and is refused, which is answer enough."""

SKEW_S = 60.0
"""Difference to the coordinator's clock from which it is named."""


class _Stop(Exception):
    """The way ends here, for the reason of this finding."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.code)
        self.finding = finding


@dataclass(frozen=True)
class _Answer:
    """An HTTP status, and the sender's time where it says so."""

    status: int
    date: datetime | None


def check_connection(connection: Connection, machine: Machine) -> list[Finding]:
    """Go the way that Flower would go, and say where it ends.

    Args:
        connection: the address and the files.
        machine: resolves names, tells the time and knows the environment.
    """
    if not connection.superlink:
        found = [not_checked()]
        return found + [f for f in check_settings(connection) if f.code != "superlink_format"]
    found = check_settings(connection)
    broken = {"superlink_format", "authority_missing", "authority_unreadable"}
    proxy = proxy_for(connection, machine.environment)
    if proxy is not None:
        found.append(describe_proxy(proxy))
        broken.add("proxy_kind")
    if not broken & {f.code for f in found}:
        try:
            found += _go(connection, proxy, machine)
        except _Stop as stop:
            found.append(stop.finding)
    return found


def _go(connection: Connection, proxy: Proxy | None, machine: Machine) -> list[Finding]:
    address = connection.address
    assert address is not None
    _resolve(*((proxy.host, proxy.port) if proxy else address), machine)
    with _connect(*((proxy.host, proxy.port) if proxy else address)) as link:
        if proxy is not None:
            _tunnel(link, *address)
        if connection.root_certificates is None:
            answer = _ask(link, address)
            return [*_judge(connection, answer, machine), reached(connection, "not encrypted")]
        with _handshake(link, connection, address) as secure:
            certificate = secure.getpeercert() or {}
            answer = _ask(secure, address)
    expires = last_moment(certificate)
    found = _judge(connection, answer, machine) + expires_soon(connection, expires, machine.now())
    return [*found, reached(connection, f"TLS, its certificate holds until {expires:%Y-%m-%d}")]


def _resolve(host: str, port: int, machine: Machine) -> None:
    try:
        machine.resolve(host, port)
    except OSError:
        raise _Stop(
            error(
                "connection",
                "dns",
                f"The name {host} is not known.",
                cause="It is mistyped, or this machine's DNS does not resolve names outside.",
                next_step=f"Try `getent hosts {host}`; ask the coordinator for the name, or the "
                "network team for DNS.",
            )
        ) from None


def _connect(host: str, port: int) -> socket.socket:
    try:
        return socket.create_connection((host, port), timeout=TIMEOUT_S)
    except ConnectionRefusedError:
        raise _Stop(
            error(
                "connection",
                "superlink_refused",
                f"{host} refuses port {port}.",
                cause="Nothing listens there: the coordinator is down, or the port is wrong.",
                next_step="Ask the coordinator whether the SuperLink runs and for its port.",
            )
        ) from None
    except TimeoutError:
        raise _Stop(
            error(
                "connection",
                "superlink_timeout",
                f"{host} does not answer on port {port} within {TIMEOUT_S:.0f} s.",
                cause="A firewall drops the packets, here or there.",
                next_step=f"Ask the network team to let this machine connect to {host}:{port} "
                "(outwards only; nothing connects inwards).",
            )
        ) from None
    except OSError as cause:
        raise _Stop(
            error(
                "connection",
                "superlink_unreachable",
                f"There is no way to {host}:{port}.",
                cause=f"The system says: {cause.strerror}.",
                next_step="Check this machine's network and routes.",
            )
        ) from None


def _tunnel(link: socket.socket, host: str, port: int) -> None:
    """Ask a proxy for a connection to the coordinator (RFC 9110, CONNECT)."""
    try:
        status = _request(link, f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n")
    except (OSError, HTTPException):
        status = _Answer(0, None)
    if status.status != 200:
        raise _Stop(
            error(
                "connection",
                "proxy_refused",
                f"The proxy does not connect to {host}:{port} (status {status.status}).",
                cause="It wants a password, or does not allow this host or port.",
                next_step="Ask the network team to allow it, or name the host in NO_PROXY.",
            )
        )


def _handshake(
    link: socket.socket, connection: Connection, address: tuple[str, int]
) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(connection.root_certificates)
    try:
        return context.wrap_socket(link, server_hostname=address[0])
    except ssl.SSLCertVerificationError as cause:
        raise _Stop(untrusted(cause, address[0], connection)) from None
    except (ssl.SSLError, OSError):
        raise _Stop(
            error(
                "connection",
                "not_tls",
                f"{connection.superlink} does not speak TLS.",
                cause="The port is that of a server without encryption, or something on the way "
                "ends TLS connections.",
                next_step="Ask the coordinator for the TLS port (usually 443).",
            )
        ) from None


def _ask(link: socket.socket, address: tuple[str, int]) -> _Answer | None:
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    lines = (f"GET {PATH} HTTP/1.1", f"Host: {host}:{address[1]}", "Connection: close", "", "")
    try:
        return _request(link, "\r\n".join(lines))
    except (OSError, HTTPException):
        return None


def _request(link: socket.socket, text: str) -> _Answer:
    link.sendall(text.encode())
    response = HTTPResponse(link)
    response.begin()
    date = response.getheader("Date")
    response.close()
    return _Answer(response.status, _time_of(date) if date else None)


def _time_of(date: str) -> datetime | None:
    try:
        when = parsedate_to_datetime(date)
    except ValueError:
        return None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def _judge(connection: Connection, answer: _Answer | None, machine: Machine) -> list[Finding]:
    found: list[Finding] = []
    if answer is None and connection.root_certificates is None and _speaks_tls(connection):
        raise _Stop(
            error(
                "connection",
                "superlink_speaks_tls",
                f"{connection.superlink} answers, but not in plain HTTP.",
                cause="It speaks TLS, and --root-certificates was not given.",
                next_step="Add --root-certificates with the coordinator's authority (PEM).",
            )
        )
    if answer is None or answer.status in (404, 502, 503, 504):
        is_down = answer is not None and answer.status >= 500
        said = f"HTTP status {answer.status}" if answer else "no HTTP at all"
        raise _Stop(
            error(
                "connection",
                "superlink_down" if is_down else "not_a_superlink",
                f"{connection.superlink} answers, but not as a SuperLink ({said}).",
                cause="The proxy in front of it runs and the SuperLink behind it does not."
                if is_down
                else "Another service listens there, or its proxy does not forward /v1/fleet/.",
                next_step="Ask the coordinator to start it."
                if is_down
                else "Ask the coordinator for host and port of the fleet API.",
            )
        )
    if answer.date is not None:
        skew = (machine.now() - answer.date).total_seconds()
        if abs(skew) > SKEW_S:
            found.append(_skewed(skew))
    return found


def _speaks_tls(connection: Connection) -> bool:
    """Shake hands once more, trusting nobody and sending nothing: only to name the mistake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if connection.address is None:
        return False
    try:
        with (
            socket.create_connection(connection.address, timeout=TIMEOUT_S) as link,
            context.wrap_socket(link),
        ):
            return True
    except (ssl.SSLError, OSError):
        return False


def _skewed(seconds: float) -> Finding:
    word = "ahead of" if seconds > 0 else "behind"
    return warning(
        "connection",
        "clock_skew",
        f"This machine's clock is {abs(seconds):.0f} s {word} the coordinator's.",
        cause="Messages expire by the clock: replies may be thrown away as too late.",
        next_step="Keep the time with NTP (timedatectl set-ntp true).",
    )
