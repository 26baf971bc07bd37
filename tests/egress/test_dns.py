"""DNS queries and our answers to them, byte by byte."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.listener.dns import EDNS_SIZE, MalformedQuery, build_refusal, build_response, parse_query
from egress.listener.local_names import answer_locally


def name(text: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode("latin-1") for label in text.split(".") if label) + b"\0"


def question(text: str, kind: int = 1, klass: int = 1) -> bytes:
    return name(text) + struct.pack("!HH", kind, klass)


def header(number: int = 7, flags: int = 0x0100, counts: tuple[int, int, int, int] = (1, 0, 0, 0)) -> bytes:
    return struct.pack("!HHHHHH", number, flags, *counts)


def opt(size: int = 4096, data: bytes = b"") -> bytes:
    return b"\0" + struct.pack("!HHIH", 41, size, 0, len(data)) + data


def query(text: str, kind: int = 1) -> bytes:
    return header() + question(text, kind)


QUERY = query("api.test")


@pytest.mark.parametrize(
    ("text", "kind", "read", "qtype", "is_host"),
    [
        ("api.test", 1, "api.test", "A", True),
        ("API.Test", 28, "api.test", "AAAA", True),
        ("api.test", 65, "api.test", "HTTPS", True),
        ("api.test", 999, "api.test", "TYPE999", True),
        ("_dmarc.api.test", 16, "_dmarc.api.test", "TXT", True),
        ("", 2, "", "NS", False),
        ("a b.test", 1, "a\\032b.test", "A", False),
        ("a\\b.test", 1, "a\\092b.test", "A", False),
        ("a\x00.test", 1, "a\\000.test", "A", False),
        ("\xff.test", 1, "\\255.test", "A", False),
        ("4.3.2.1.in-addr.arpa", 12, "4.3.2.1.in-addr.arpa", "PTR", True),
        ("127.0.0.1", 1, "127.0.0.1", "A", False),
        ("a" * 63 + ".test", 1, "a" * 63 + ".test", "A", True),
    ],
)
def test_a_query_is_read(text: str, kind: int, read: str, qtype: str, is_host: bool) -> None:
    found = parse_query(query(text, kind))
    assert (found.name, found.qtype, found.qtype_name, found.is_host) == (read, qtype, qtype, is_host)
    assert (found.id, found.edns, found.max_size, found.recursion_desired) == (7, False, 512, True)


def test_a_dot_inside_a_label_is_no_separator() -> None:
    data = header() + b"\x08api.test\x04evil\0" + struct.pack("!HH", 1, 1)
    found = parse_query(data)
    assert found.name == "api\\046test.evil"
    assert not found.is_host


@pytest.mark.parametrize(("size", "taken"), [(0, 512), (512, 512), (1000, 1000), (65535, EDNS_SIZE)])
def test_the_size_that_the_asker_takes_is_bounded(size: int, taken: int) -> None:
    found = parse_query(header(counts=(1, 0, 0, 1)) + question("api.test") + opt(size, b"\0\x0a\0\x08cookie!!"))
    assert (found.edns, found.max_size) == (True, taken)


BAD = {
    "nothing": b"",
    "half a header": header()[:11],
    "a response": header(flags=0x8180) + question("api.test"),
    "an update": header(flags=0x2800) + question("api.test"),
    "a truncated one": header(flags=0x0200) + question("api.test"),
    "no question": header(counts=(0, 0, 0, 0)),
    "two questions": header(counts=(2, 0, 0, 0)) + question("api.test") * 2,
    "an answer inside": header(counts=(1, 1, 0, 0)) + question("api.test"),
    "an authority inside": header(counts=(1, 0, 1, 0)) + question("api.test"),
    "two additional records": header(counts=(1, 0, 0, 2)) + question("api.test") + opt() * 2,
    "a cut name": header() + b"\x08api",
    "no end of the name": header() + b"\x03api",
    "a compressed name": header() + b"\xc0\x0c" + struct.pack("!HH", 1, 1),
    "a long label": header() + b"\x40" + b"a" * 64 + b"\0\0\1\0\1",
    "a long name": header() + (b"\x3f" + b"a" * 63) * 4 + b"\0" + b"\0\1\0\1",
    "no type": header() + name("api.test") + b"\0",
    "class CH": header() + question("version.bind", 16, 3),
    "bytes after it": QUERY + b"x",
    "a missing OPT": header(counts=(1, 0, 0, 1)) + question("api.test"),
    "an additional A": header(counts=(1, 0, 0, 1)) + question("api.test") + b"\0" + struct.pack("!HHIH", 1, 1, 0, 0),
    "an OPT with a name": header(counts=(1, 0, 0, 1)) + question("api.test") + b"\1a" + opt(),
    "a cut OPT": header(counts=(1, 0, 0, 1)) + question("api.test") + opt(512, b"abc")[:-1],
    "bytes after OPT": header(counts=(1, 0, 0, 1)) + question("api.test") + opt() + b"x",
    "a very long one": QUERY + b"x" * 2000,
    "http": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_what_is_no_plain_query_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedQuery):
        parse_query(data)


FORMERR, NOTIMP, REFUSED = 1, 4, 5
CODES = {
    "class CH": (header() + question("version.bind", 16, 3), REFUSED),
    "two questions": (header(counts=(2, 0, 0, 0)) + question("api.test") * 2, FORMERR),
    "NOTIFY": (header(flags=0x2000) + question("api.test"), NOTIMP),
    "UPDATE": (header(flags=0x2800) + question("api.test"), NOTIMP),
    "trailing bytes": (QUERY + b"x", FORMERR),
    "two OPT": (header(counts=(1, 0, 0, 2)) + question("api.test") + opt() * 2, FORMERR),
    "a header alone": (header(), FORMERR),
    "cut off in a TCP sense": (header(flags=0x0300) + question("api.test"), FORMERR),
    "far too long": (QUERY + b"x" * 2000, FORMERR),
}


@pytest.mark.parametrize(("data", "code"), CODES.values(), ids=CODES.keys())
def test_what_is_no_plain_query_is_answered_with_a_code_and_nothing_else(data: bytes, code: int) -> None:
    with pytest.raises(MalformedQuery) as refused:
        parse_query(data)
    assert refused.value.rcode == code
    answer = build_refusal(data, code)
    flags = int.from_bytes(answer[2:4], "big")
    assert (answer[:2], flags & 15, flags & 0x7800) == (data[:2], code, data[2] << 8 & 0x7800)
    assert answer[4:] == bytes(8)
    with pytest.raises(MalformedQuery) as answered:
        parse_query(answer)
    assert answered.value.rcode is None, "two of us would talk for ever"


@pytest.mark.parametrize("data", [b"", b"x", QUERY[:11], header(flags=0x8180) + question("api.test")])
def test_a_response_or_no_header_at_all_gets_no_answer(data: bytes) -> None:
    with pytest.raises(MalformedQuery) as refused:
        parse_query(data)
    assert refused.value.rcode is None


HOSTNAME = "6b4718fe36eb"


@pytest.mark.parametrize(
    ("name", "kind", "code", "addresses"),
    [
        (HOSTNAME, 1, 0, ["127.0.0.1"]),
        (HOSTNAME.upper(), 1, 0, ["127.0.0.1"]),
        (HOSTNAME, 28, 0, []),
        (HOSTNAME, 16, 0, []),
        ("localhost", 1, 0, ["127.0.0.1"]),
        ("localhost", 28, 0, []),
        ("app.localhost", 1, 0, ["127.0.0.1"]),
        ("localhost.localdomain", 1, 0, ["127.0.0.1"]),
        ("1.0.0.127.in-addr.arpa", 12, 3, []),
        ("0.0.0.0.in-addr.arpa", 12, 3, []),
        ("1" + ".0" * 31 + ".ip6.arpa", 12, 3, []),
    ],
)
def test_a_machine_knows_its_own_names(name: str, kind: int, code: int, addresses: list[str]) -> None:
    answer = answer_locally(parse_query(query(name, kind)), HOSTNAME)
    assert answer is not None
    assert answer[3] & 15 == code
    assert [str(ipaddress.ip_address(answer[-4:]))] * answer[7] == addresses


@pytest.mark.parametrize(
    "name",
    [
        f"{HOSTNAME}.evil.example", f"x.{HOSTNAME}", "notlocalhost", "localhost.evil.example", "printer.local",
        "1.0.0.10.in-addr.arpa", "1.0.0.127.in-addr.arpa.evil.example", "127.evil.example", "6b4718fe36ec",
        "2" + ".0" * 31 + ".ip6.arpa",
    ],
)  # fmt: skip
def test_every_other_name_is_somebody_elses(name: str) -> None:
    assert answer_locally(parse_query(query(name, 1)), HOSTNAME) is None
    assert answer_locally(parse_query(header() + b"\0\0\1\0\1"), "") is None, "the root is nobody's host name"
    assert answer_locally(parse_query(query(name, 1)), "") is None


def test_every_prefix_of_a_query_is_refused() -> None:
    data = header(counts=(1, 0, 0, 1)) + question("api.test") + opt()
    for cut in range(len(data)):
        with pytest.raises(MalformedQuery):
            parse_query(data[:cut])


def test_nxdomain_repeats_the_question_as_it_was_spelled() -> None:
    data = query("aPi.TeSt")
    answer = build_response(parse_query(data), nxdomain=True)
    assert answer == header(flags=0x8183) + question("aPi.TeSt")


def test_an_address_is_answered() -> None:
    answer = build_response(parse_query(QUERY), addresses=[ipaddress.ip_address("140.82.112.3")], ttl=60)
    record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + bytes([140, 82, 112, 3])
    assert answer == header(flags=0x8180, counts=(1, 1, 0, 0)) + question("api.test") + record


def test_an_ipv6_address_is_answered_to_aaaa_only() -> None:
    both = [ipaddress.ip_address("2001:db8::1"), ipaddress.ip_address("140.82.112.3")]
    six = build_response(parse_query(query("api.test", 28)), addresses=both)
    assert six.endswith(ipaddress.ip_address("2001:db8::1").packed)
    assert struct.unpack_from("!H", six, 6) == (1,)
    four = build_response(parse_query(QUERY), addresses=both)
    assert struct.unpack_from("!H", four, 6) == (1,)
    other = build_response(parse_query(query("api.test", 16)), addresses=both)
    assert other == header(flags=0x8180) + question("api.test", 16)


def test_an_answer_to_edns_is_edns() -> None:
    answer = build_response(parse_query(header(counts=(1, 0, 0, 1)) + question("api.test") + opt()), nxdomain=True)
    assert answer == header(flags=0x8183, counts=(1, 0, 0, 1)) + question("api.test") + opt(EDNS_SIZE)


def test_recursion_is_said_to_be_desired_only_where_it_was() -> None:
    answer = build_response(parse_query(header(flags=0) + question("api.test")))
    assert answer[:4] == struct.pack("!HH", 7, 0x8080)


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_or_a_query_that_can_be_answered(data: bytes) -> None:
    for start in (b"", header(), header(counts=(1, 0, 0, 1))):
        try:
            found = parse_query(start + data)
        except MalformedQuery:
            continue
        assert found.name.isascii()
        assert len(build_response(found, nxdomain=True)) <= len(start + data)


@given(
    st.lists(st.text("abcXYZ019-_ .\x00\xff\\", min_size=1, max_size=12), max_size=8),
    st.integers(0, 600),
    st.integers(0, 60),
)
def test_an_answer_never_outgrows_what_the_asker_takes(labels: list[str], size: int, count: int) -> None:
    raw = b"".join(bytes([len(label)]) + label.encode("latin-1") for label in labels) + b"\0\0\1\0\1"
    found = parse_query(header(counts=(1, 0, 0, 1)) + raw + opt(size))
    addresses = [ipaddress.IPv4Address(n) for n in range(count)]
    answer = build_response(found, addresses=addresses)
    assert len(answer) <= found.max_size
    assert found.question in answer
