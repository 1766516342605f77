"""The way to the coordinator: real sockets on loopback, real TLS, certificates made here."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from client.checks import reach
from client.checks.connection import Connection, proxy_for
from client.checks.machine import Machine
from client.checks.reach import check_connection
from simulations.process_group import reserved_ports

NOW = datetime.now(UTC)
PATIENCE_S = 120.0
METHOD_NOT_ALLOWED = "405 Method Not Allowed"
"""What a SuperLink answers to a GET on its fleet API."""


def name_of(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@dataclass
class Authority:
    """Signs certificates, as a coordinator's does."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, title):
        key = ec.generate_private_key(ec.SECP256R1())
        builder = draft(name_of(title), name_of(title), key, days=(-10, 3650))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        return cls(key, builder.sign(key, hashes.SHA256()))

    def write(self, path):
        path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        return path

    def issue(self, folder, *, host="localhost", address="127.0.0.1", days=(-1, 365)):
        """Write a server's certificate and key into one file."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = draft(name_of(host), self.certificate.subject, key, days=days)
        names = [x509.DNSName(host)]
        if address:
            names.append(x509.IPAddress(ipaddress.ip_address(address)))
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
        path = folder / f"server-{key.private_numbers().private_value % 10**8}.pem"
        path.write_bytes(
            builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return path


def draft(subject, issuer, key, *, days):
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + timedelta(days=days[0]))
        .not_valid_after(NOW + timedelta(days=days[1]))
    )


@contextlib.contextmanager
def served(certificate=None, *, status=METHOD_NOT_ALLOWED, date=None, raw=None):
    """Answer every connection on a loopback port until the end; yield the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    when = format_datetime(date or datetime.now(UTC), usegmt=True)
    reply = f"HTTP/1.1 {status}\r\nDate: {when}\r\nContent-Length: 0\r\n\r\n".encode()

    def serve():
        while True:
            try:
                link, _ = listener.accept()
            except OSError:
                return  # the test is over
            link.settimeout(PATIENCE_S)
            with contextlib.suppress(OSError), link:
                if context is not None:
                    link = context.wrap_socket(link, server_side=True)
                with link:
                    link.recv(4096)
                    link.sendall(raw or reply)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@pytest.fixture(scope="module")
def authority():
    return Authority.make("Coordinator's authority")


@pytest.fixture
def trusted(authority, tmp_path):
    return authority.write(tmp_path / "authority.pem")


@pytest.fixture
def machine(monkeypatch):
    monkeypatch.setattr(reach, "TIMEOUT_S", PATIENCE_S)
    return replace(Machine(), environment={})


def check(machine, superlink, **files):
    return check_connection(Connection(superlink, **files), machine)


def complaints(found):
    assert all(f.cause and f.next_step for f in found if f.level != "ok")
    return [f.code for f in found if f.level != "ok"]


def test_a_good_connection(authority, trusted, machine, tmp_path):
    with served(authority.issue(tmp_path)) as port:
        for host in ("127.0.0.1", "localhost"):
            found = check(machine, f"{host}:{port}", root_certificates=trusted)
            assert complaints(found) == []
            assert "TLS, its certificate holds until" in found[-1].what


def test_plain_http_on_the_own_machine(machine):
    with served() as port:
        found = check(machine, f"127.0.0.1:{port}")
    assert complaints(found) == [] and "not encrypted" in found[-1].what


@pytest.mark.parametrize(
    ("issued", "code"),
    [
        ({"days": (-30, -1)}, "certificate_expired"),
        ({"days": (1, 30)}, "certificate_not_yet"),
        ({"host": "coordinator.example", "address": None}, "certificate_host"),
        ({"host": "coordinator.example", "address": "10.1.2.3"}, "certificate_host"),
        ({"days": (-30, 5)}, "certificate_expires_soon"),
    ],
)
def test_a_certificate_that_is_wrong(authority, trusted, machine, tmp_path, issued, code):
    with served(authority.issue(tmp_path, **issued)) as port:
        for host in ("127.0.0.1", "localhost"):
            found = check(machine, f"{host}:{port}", root_certificates=trusted)
            assert complaints(found) == [code]


def test_a_certificate_of_another_authority(trusted, machine, tmp_path):
    other = Authority.make("A proxy that inspects TLS")
    with served(other.issue(tmp_path)) as port:
        found = check(machine, f"localhost:{port}", root_certificates=trusted)
    assert complaints(found) == ["certificate_authority"]


def test_an_authority_of_the_same_name_is_another_one(trusted, machine, tmp_path):
    other = Authority.make("Coordinator's authority")
    with served(other.issue(tmp_path)) as port:
        found = check(machine, f"localhost:{port}", root_certificates=trusted)
    assert complaints(found) == ["certificate_authority"]


def test_a_server_without_tls(trusted, machine):
    with served() as port:
        found = check(machine, f"localhost:{port}", root_certificates=trusted)
    assert complaints(found) == ["not_tls"]


def test_nobody_listens(trusted, machine):
    with reserved_ports(1) as (port,):
        found = check(machine, f"127.0.0.1:{port}", root_certificates=trusted)
    assert complaints(found) == ["superlink_refused"]


def test_nobody_answers(trusted, machine, monkeypatch):
    """A port whose queue is full drops further connections, as a firewall does."""
    monkeypatch.setattr(reach, "TIMEOUT_S", 0.3)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        found = check(machine, f"127.0.0.1:{address[1]}", root_certificates=trusted)
    assert complaints(found) == ["superlink_timeout"]


def test_a_name_that_is_not_known(trusted, machine):
    def unknown(host, port):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    found = check(
        replace(machine, resolve=unknown), "coordinator.invalid:443", root_certificates=trusted
    )
    assert complaints(found) == ["dns"]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("502 Bad Gateway", "superlink_down"),
        ("503 Service Unavailable", "superlink_down"),
        ("404 Not Found", "not_a_superlink"),
    ],
)
def test_a_proxy_without_a_superlink(authority, trusted, machine, tmp_path, status, code):
    with served(authority.issue(tmp_path), status=status) as port:
        found = check(machine, f"localhost:{port}", root_certificates=trusted)
    assert complaints(found) == [code]


@pytest.mark.parametrize("raw", [b"SSH-2.0-OpenSSH_9.6\r\n", b"\x00" * 40, b"220 mail ESMTP\r\n"])
def test_another_service(machine, raw):
    with served(raw=raw) as port:
        assert complaints(check(machine, f"127.0.0.1:{port}")) == ["not_a_superlink"]


def test_the_authority_was_forgotten(authority, machine, tmp_path):
    with served(authority.issue(tmp_path)) as port:
        found = check(machine, f"127.0.0.1:{port}")
    assert complaints(found) == ["superlink_speaks_tls"]


@pytest.mark.parametrize(("seconds", "word"), [(600, "behind"), (-600, "ahead of")])
def test_a_clock_that_differs_from_the_coordinators(machine, seconds, word):
    with served(date=datetime.now(UTC) + timedelta(seconds=seconds)) as port:
        found = check(machine, f"127.0.0.1:{port}")
    (skewed,) = [f for f in found if f.code == "clock_skew"]
    assert word in skewed.what and complaints(found) == ["clock_skew"]


@pytest.mark.parametrize(
    "address", ["coordinator", "coordinator:", ":443", "https://c.example:443", "c:http", "c:70000"]
)
def test_an_address_that_is_none(trusted, machine, address):
    assert complaints(check(machine, address, root_certificates=trusted)) == ["superlink_format"]


def test_no_coordinator_is_named(machine):
    assert complaints(check(machine, "")) == ["superlink_unnamed"]


def test_plain_http_to_another_machine(machine):
    def unknown(host, port):
        raise socket.gaierror

    found = check(replace(machine, resolve=unknown), "coordinator.example:9092")
    assert complaints(found) == ["plain_http", "dns"]


def test_an_authority_that_is_absent(machine, tmp_path):
    found = check(machine, "c.example:443", root_certificates=tmp_path / "gone.pem")
    assert complaints(found) == ["authority_missing"]


@pytest.mark.parametrize("text", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_an_authority_that_is_none(machine, tmp_path, text):
    path = tmp_path / "authority.pem"
    path.write_text(text)
    assert complaints(check(machine, "c.example:443", root_certificates=path)) == [
        "authority_unreadable"
    ]


def key_file(folder, key, *, kind=serialization.PrivateFormat.OpenSSH, mode=0o600):
    path = folder / "node_key"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption())
    )
    path.chmod(mode)
    return path


@pytest.fixture(scope="module")
def node_key():
    return ec.generate_private_key(ec.SECP384R1())


def test_a_node_key_that_is_good(machine, tmp_path, node_key):
    with served() as port:
        found = check(machine, f"127.0.0.1:{port}", node_key=key_file(tmp_path, node_key))
    assert complaints(found) == []


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_node_key_that_others_can_use(machine, tmp_path, node_key, mode):
    found = check(machine, "", node_key=key_file(tmp_path, node_key, mode=mode))
    assert complaints(found) == ["superlink_unnamed", "node_key_open"]


def test_a_node_key_that_is_absent(machine, tmp_path):
    found = check(machine, "", node_key=tmp_path / "gone")
    assert complaints(found) == ["superlink_unnamed", "node_key_missing"]


def test_a_node_key_that_flower_does_not_take(machine, tmp_path, node_key):
    pem = serialization.PrivateFormat.PKCS8
    for key, kind in (
        (node_key, pem),
        (rsa.generate_private_key(65537, 1024), serialization.PrivateFormat.OpenSSH),
    ):
        found = check(machine, "", node_key=key_file(tmp_path, key, kind=kind))
        assert complaints(found) == ["superlink_unnamed", "node_key_format"]


PROXY = "http://user:secret@127.0.0.1:{port}"


def test_a_proxy_that_refuses(trusted, machine):
    with served(status="407 Proxy Authentication Required") as port:
        through = replace(machine, environment={"HTTPS_PROXY": PROXY.format(port=port)})
        found = check(through, "coordinator.example:443", root_certificates=trusted)
    assert complaints(found) == ["proxy", "proxy_refused"]
    assert "secret" not in repr(found)


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "http://p:port", "http://"])
def test_a_proxy_that_flower_cannot_use(trusted, machine, proxy):
    through = replace(machine, environment={"ALL_PROXY": proxy})
    found = check(through, "coordinator.example:443", root_certificates=trusted)
    assert complaints(found) == ["proxy_kind"]


@pytest.mark.parametrize(
    ("environment", "host", "expected"),
    [
        ({}, "c.example", None),
        ({"https_proxy": "http://p:3128"}, "c.example", ("p", 3128)),
        ({"https_proxy": "p:3128"}, "c.example", ("p", 3128)),
        (
            {"HTTPS_PROXY": "http://big:1", "https_proxy": "http://small:2"},
            "c.example",
            ("small", 2),
        ),
        ({"HTTP_PROXY": "http://p:3128"}, "c.example", None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "other,.example"}, "c.example", None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "ample"}, "c.example", ("p", 1)),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, "c.example", None),
        ({"HTTPS_PROXY": "http://p:1"}, "127.0.0.1", None),
    ],
)
def test_which_proxy_is_used(tmp_path, environment, host, expected):
    proxy = proxy_for(Connection(f"{host}:443", tmp_path / "a.pem"), environment)
    assert (proxy and (proxy.host, proxy.port)) == expected
