"""What the connection to the coordinator is made with: address, authority, node key, proxy."""

from __future__ import annotations

import ssl
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from client.checks.findings import Finding, error, ok, warning

if TYPE_CHECKING:
    from collections.abc import Mapping

OWN_MACHINE = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Connection:
    """How a SuperNode would connect.

    Attributes:
        superlink: `host:port` of the coordinator; "" where none was named.
        root_certificates: authority of its certificate (PEM); None is plain HTTP.
        node_key: the site's private key; None where the coordinator asks for none.
    """

    superlink: str = ""
    root_certificates: Path | None = None
    node_key: Path | None = None

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port; None where the text is not `host:port`."""
        host, colon, port = self.superlink.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if "/" in host or not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
            return None
        return host, int(port)


def check_settings(connection: Connection) -> list[Finding]:
    """Look at everything that can be judged without connecting; only complaints are returned."""
    found: list[Finding] = []
    if connection.address is None:
        found.append(
            error(
                "connection",
                "superlink_format",
                f"--superlink {connection.superlink}: write it as host:port, without https://.",
                cause="The coordinator is found by its host name (or address) and its port.",
                next_step="For instance --superlink coordinator.example.org:443.",
            )
        )
    found += _check_authority(connection)
    found += _check_key(connection.node_key)
    return found


def _check_authority(connection: Connection) -> list[Finding]:
    path = connection.root_certificates
    if path is None:
        address = connection.address
        if address is None or address[0] in OWN_MACHINE:
            return []
        return [
            error(
                "connection",
                "plain_http",
                f"--superlink {connection.superlink} is another machine, so the connection must be "
                "encrypted.",
                cause="Model weights and tasks would travel in the clear, and anybody on the way "
                "could change them.",
                next_step="Add --root-certificates with the coordinator's authority.",
            )
        ]
    if not path.is_file():
        return [_absent("--root-certificates", path, "authority_missing")]
    try:
        ssl.create_default_context().load_verify_locations(path)
    except (ssl.SSLError, OSError):
        return [
            error(
                "connection",
                "authority_unreadable",
                f"--root-certificates {path} holds no certificate that can be read.",
                cause="It must be text (PEM) that begins with -----BEGIN CERTIFICATE-----.",
                next_step="Ask the coordinator for the authority's certificate, not for a key.",
            )
        ]
    return []


def _absent(option: str, path: Path, code: str) -> Finding:
    return error(
        "connection",
        code,
        f"{option} {path} does not exist.",
        cause="There is no file of that name.",
        next_step="Correct the path, or ask the coordinator for the file.",
    )


def _check_key(path: Path | None) -> list[Finding]:
    if path is None:
        return []
    if not path.is_file():
        return [_absent("--node-key", path, "node_key_missing")]
    found: list[Finding] = []
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        found.append(
            error(
                "connection",
                "node_key_open",
                f"--node-key {path} can be used by other accounts (mode {mode:03o}).",
                cause="Whoever reads this key can answer the coordinator as this hospital.",
                next_step=f"chmod 600 {path.name}; if others had access, make and enrol a new key.",
            )
        )
    if not _is_node_key(path):
        found.append(
            error(
                "connection",
                "node_key_format",
                f"--node-key {path} is not a private key that Flower takes.",
                cause="It reads elliptic-curve keys in OpenSSH's format without a passphrase.",
                next_step="Make one: ssh-keygen -t ecdsa -b 384 -N '' -f node_key; the coordinator "
                "enrols node_key.pub.",
            )
        )
    return found


def _is_node_key(path: Path) -> bool:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    try:
        key = load_ssh_private_key(path.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm, OSError):
        return False
    return isinstance(key, ec.EllipticCurvePrivateKey)


@dataclass(frozen=True)
class Proxy:
    """A proxy that the environment names; its address without any password."""

    host: str
    port: int
    scheme: str


def proxy_for(connection: Connection, environment: Mapping[str, str]) -> Proxy | None:
    """Return the proxy that Flower would use (httpx follows the environment); None: directly.

    Args:
        connection: where to.
        environment: the variables of this process; only those of proxies are read.
    """
    address = connection.address
    if address is None or address[0] in OWN_MACHINE:
        return None  # `start` puts loopback into NO_PROXY
    proxies = _proxies(environment)
    if _goes_past(address[0], proxies.get("no", "")):
        return None
    kind = "http" if connection.root_certificates is None else "https"
    text = proxies.get(kind) or proxies.get("all")
    if not text:
        return None
    try:
        parts = urlsplit(text if "//" in text else f"//{text}", scheme="http")
        return Proxy(parts.hostname or "", parts.port or 80, parts.scheme)
    except ValueError:  # a port that is no number
        return Proxy("", 0, parts.scheme)


def _proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the proxies of an environment by kind; lower-case names win, as everywhere."""
    found = {}
    for name, value in sorted(environment.items()):  # upper case comes first
        kind, underscore, word = name.rpartition("_")
        if underscore and word.lower() == "proxy" and value:
            found[kind.lower()] = value
    return found


def _goes_past(host: str, exceptions: str) -> bool:
    """Return whether NO_PROXY names this host or a domain that it is in."""
    names = [e.strip().removeprefix("*.").removeprefix(".") for e in exceptions.split(",")]
    return "*" in names or any(n and (host == n or host.endswith(f".{n}")) for n in names)


def describe_proxy(proxy: Proxy) -> Finding:
    """Say that the way leads through a proxy."""
    if not proxy.scheme.startswith("http") or not proxy.host:
        return error(
            "connection",
            "proxy_kind",
            f"The environment names a proxy that Flower cannot use ({proxy.scheme}).",
            cause="Its HTTP client takes addresses like http://proxy.example.org:3128 only.",
            next_step="Name an HTTP proxy in HTTPS_PROXY, or the coordinator in NO_PROXY.",
        )
    return warning(
        "connection",
        "proxy",
        f"HTTPS_PROXY leads through {proxy.host}:{proxy.port}.",
        cause="Flower follows it; a proxy that inspects TLS, or limits sizes and times, ends long "
        "connections.",
        next_step="If the coordinator can be reached directly, name its host in NO_PROXY.",
    )


def not_checked() -> Finding:
    """Say that no coordinator was named."""
    return warning(
        "connection",
        "superlink_unnamed",
        "The connection to the coordinator was not checked.",
        cause="No --superlink was given.",
        next_step="Add --superlink host:port --root-certificates authority.pem.",
    )


def reached(connection: Connection, detail: str) -> Finding:
    """Say that the coordinator answered."""
    return ok("connection", f"{connection.superlink} answers; {detail}.")
