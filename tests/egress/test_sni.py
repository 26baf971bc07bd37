"""ClientHellos: ours against OpenSSL's reading, every split, every damage."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from egress.connection.sni import MAX_HELLO, MAX_RECORDS, NotTLS, parse_client_hello
from tests.egress.fuzz.targets import fragments
from tests.egress.hellos import (
    extension,
    hello,
    hello_message,
    key_share,
    openssl_hello,
    records,
    server_name,
    vector,
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("tls") / "server.pem"
    trustme.CA().issue_cert("api.test").private_key_and_cert_chain_pem.write_to_path(str(path))
    return path


def openssl_reads(certificate: Path, data: bytes) -> str | None:
    """The name that OpenSSL's server takes from a ClientHello. Raises ssl.SSLError where it refuses it."""
    seen: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.sni_callback = lambda _socket, name, _context: seen.append(name)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    incoming.write(data)
    try:
        context.wrap_bio(incoming, outgoing, server_side=True).do_handshake()
    except ssl.SSLWantReadError:
        pass
    except ssl.SSLError:
        if not seen:
            raise
    return seen[0] if seen else None


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"maximum_version": ssl.TLSVersion.TLSv1_2},
        {"alpn": ["h2", "http/1.1"]},
        {"minimum_version": ssl.TLSVersion.TLSv1_3},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["api.test", "xn--bcher-kva.example", "a" * 63 + ".test", None])
def test_openssls_own_hello_is_read_as_openssl_reads_it(
    certificate: Path, name: str | None, options: dict[str, object]
) -> None:
    data = openssl_hello(name, **options)
    found = parse_client_hello(data)
    assert found is not None
    assert found.server_name == name == openssl_reads(certificate, data)
    assert found.size == len(data)
    assert not found.ech


@pytest.mark.parametrize("size", [1, 2, 5, 100, 1 << 14])
def test_a_hello_over_many_records_is_read(certificate: Path, size: int) -> None:
    data = hello(size=max(size, 1))
    found = parse_client_hello(data)
    assert found is not None
    assert found.server_name == "api.test"
    assert openssl_reads(certificate, openssl_hello("api.test")) == "api.test"


@pytest.mark.parametrize("share", [1216, 16_000, 40_000])
def test_a_hello_with_a_post_quantum_share_is_read(share: int) -> None:
    data = hello(b"api.test", key_share(share))
    found = parse_client_hello(data + b"\x14\x03\x03\x00\x01\x01")
    assert found is not None
    assert (found.server_name, found.size) == ("api.test", len(data))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (hello(b"API.Test"), "api.test"),
        (hello(b"api.test."), "api.test"),
        (hello(b"10.0.0.1"), "10.0.0.1"),
        (hello(None), None),
        (records(hello_message(without_extensions=True)), None),
        (records(hello_message(server_name(b"api.test"), session=b"")), "api.test"),
        (hello(b"api.test", extension(0x0A0A, b""), extension(0x1A1A, b"\0")), "api.test"),
        (records(hello_message(key_share(32), server_name(b"api.test"))), "api.test"),
        (records(hello_message(server_name(b"api.test")), version=b"\x03\x03"), "api.test"),
    ],
)
def test_a_good_hello_shows_its_name(data: bytes, name: str | None) -> None:
    found = parse_client_hello(data)
    assert found is not None
    assert found.server_name == name


def test_an_encrypted_hello_shows_its_outer_name() -> None:
    found = parse_client_hello(hello(b"public.test", extension(0xFE0D, b"\0" * 200)))
    assert found is not None
    assert found.ech
    assert found.server_name == "public.test"


@pytest.mark.parametrize("data", [hello(), hello(size=3), openssl_hello("api.test")], ids=["one", "many", "openssl"])
def test_a_hello_is_incomplete_up_to_its_last_byte(data: bytes) -> None:
    whole = parse_client_hello(data)
    for cut in range(len(data)):
        assert parse_client_hello(data[:cut]) is None
        assert parse_client_hello(bytearray(data[:cut])) is None
    assert whole is not None
    assert parse_client_hello(data + b"\x17\x03\x03") == whole


SSL2 = b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x01\x00\x80\x02\x00\x80"

BAD = {
    "http": b"GET / HTTP/1.1\r\n",
    "ssh": b"SSH-2.0-OpenSSH_9.0\r\n",
    "SSLv2": SSL2,
    "socks": b"\x05\x01\x00",
    "zero": b"\x00",
    "an alert": b"\x15\x03\x01\x00\x02\x01\x00",
    "application data": b"\x17\x03\x03\x00\x05hello",
    "a record of version 2": b"\x16\x02\x00\x00\x05",
    "a record of version 4": b"\x16\x04\x00",
    "an empty record": b"\x16\x03\x01\x00\x00",
    "an oversized record": b"\x16\x03\x01\x40\x01",
    "a ServerHello": records(b"\x02" + vector(3, b"x" * 40)),
    "a ServerHello's first byte": b"\x16\x03\x01\x00\x05\x02",
    "a hello of 16 MB": records(b"\x01\xff\xff\xff" + b"x" * 20),
    "an alert in the middle": hello(size=20)[:25] + b"\x15\x03\x01\x00\x02\x01\x00",
    "something after it in its record": records(hello_message(server_name(b"api.test")) + b"x"),
    "a second hello in its record": records(hello_message(server_name(b"api.test")) * 2),
    "two server_name extensions": records(hello_message(server_name(b"api.test"), server_name(b"evil.test"))),
    "two equal extensions": records(hello_message(server_name(b"api.test"), extension(23, b""), extension(23, b""))),
    "two names": records(hello_message(server_name(b"api.test", b"evil.test"))),
    "a name of another kind": records(hello_message(server_name(b"api.test", kind=1))),
    "an empty list": records(hello_message(extension(0, b"\0\0"))),
    "an empty extension": records(hello_message(extension(0, b""))),
    "an empty name": records(hello_message(server_name(b""))),
    "bytes after the list": records(hello_message(extension(0, vector(2, b"\0" + vector(2, b"api.test")) + b"x"))),
    "a list that is too long": records(hello_message(extension(0, b"\x00\xff\x00\x00\x01a"))),
    "a name that is too long": records(hello_message(extension(0, vector(2, b"\x00\x00\xffa")))),
    "a NUL in the name": hello(b"api.test\0.evil.test"),
    "a NUL at the end": hello(b"api.test\0"),
    "a space in the name": hello(b"api.test "),
    "a name beyond ASCII": hello("bücher.test".encode()),
    "a star": hello(b"*.test"),
    "a port": hello(b"api.test:443"),
    "an odd address": hello(b"127.1"),
    "a long name": hello(b"a." * 150 + b"test"),
    "an odd number of cipher bytes": records(hello_message(ciphers=b"\x13\x01\x13")),
    "no ciphers": records(hello_message(ciphers=b"")),
    "no compression": records(hello_message(compression=b"")),
    "a session of 33 bytes": records(hello_message(session=b"s" * 33)),
    "version 2 inside": records(hello_message(version=b"\x02\x00")),
    "something after the extensions": records(hello_message(tail=b"x")),
    "a cut message": records(b"\x01" + vector(3, b"\x03\x03" + b"r" * 10)),
    "extensions that are too long": records(hello_message(without_extensions=True, tail=b"\xff\xff\x00")),
    "too many records": records(hello_message(key_share(MAX_RECORDS)), 1),
    "no end": records(b"\x01\x00\xff\xff" + b"x" * MAX_HELLO)[: MAX_HELLO + 5],
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_what_is_no_good_hello_is_refused_for_good(data: bytes) -> None:
    with pytest.raises(NotTLS) as caught:
        parse_client_hello(data)
    assert str(caught.value)
    with pytest.raises(NotTLS):
        parse_client_hello(data + b"more")


@pytest.mark.parametrize(
    "name", ["two server_name extensions", "an empty list", "an empty name", "a NUL in the name"]
)
def test_openssl_refuses_these_too(certificate: Path, name: str) -> None:
    try:
        read = openssl_reads(certificate, BAD[name])
    except ssl.SSLError:
        return
    assert not read


@given(st.data())
def test_a_damaged_hello_never_shows_a_name_that_is_not_in_it(data: st.DataObject) -> None:
    good = bytearray(data.draw(st.sampled_from([hello(), hello(size=7), openssl_hello("api.test")])))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = parse_client_hello(good)
    except NotTLS:
        return
    if found is not None and found.server_name is not None:
        flat = b"".join(fragments(bytes(good[: found.size])))
        assert found.server_name.encode() in flat.lower() or ":" in found.server_name


def test_more_extensions_than_anybody_sends_are_refused() -> None:
    """Reading ten thousand of them took longer than a neighbour should wait."""
    few, many = ([extension(1000 + number, b"") for number in range(count)] for count in (200, 300))
    assert parse_client_hello(hello(b"api.test", *few)) is not None
    with pytest.raises(NotTLS, match="too many"):
        parse_client_hello(hello(b"api.test", *many))


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_incomplete_or_a_hello(data: bytes) -> None:
    for start in (b"", b"\x16\x03\x01", b"\x16\x03\x01\x01\x00\x01\x00\x00\xfc\x03\x03"):
        try:
            parse_client_hello(start + data)
        except NotTLS:
            continue


@given(st.binary(max_size=120), st.integers(1, 300))
def test_openssl_and_we_agree_on_any_list_of_extensions(certificate: Path, tail: bytes, size: int) -> None:
    """Where OpenSSL takes a name from a hello, we take the same one or refuse the hello."""
    raw = records(hello_message(server_name(b"api.test"), tail), size)
    try:
        ours = parse_client_hello(raw)
    except NotTLS:
        return
    try:
        theirs = openssl_reads(certificate, raw)
    except ssl.SSLError:
        return
    assert ours is not None
    assert theirs in (None, ours.server_name)
