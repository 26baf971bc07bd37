"""The corpus as data: what a case is, and the bytes that it sends. See corpus/README.md."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.egress import hellos

FOLDER = Path(__file__).parent / "corpus"


@dataclass(frozen=True)
class World:
    """What all cases share."""

    policies: dict[str, dict[str, Any]]
    listen: dict[str, int]
    """Port of the proxy with that policy."""
    resolve: dict[str, list[str]]
    """`--resolve` of the proxy with that policy."""
    zone: dict[str, list[str]]
    host_addresses: list[str]


@dataclass(frozen=True)
class Case:
    """One connection to the proxy, and what must come of it."""

    name: str
    policy: str
    send: list[str | dict[str, Any]]
    decisions: list[str]
    reaches: list[str]
    any_of: list[str] = field(default_factory=list)
    reply: str | list[str | dict[str, Any]] | None = None
    answer_has: str = ""
    answer_lacks: list[str] = field(default_factory=list)
    forwarded_has: list[str] = field(default_factory=list)
    forwarded_lacks: list[str] = field(default_factory=list)
    looks_up: list[str] | None = None
    complete: bool = True
    file: str = ""

    @property
    def id(self) -> str:
        return f"{self.file}: {self.name}"


def load_world() -> World:
    return World(**json.loads((FOLDER / "world.json").read_text()))


def load_cases() -> list[Case]:
    return [
        Case(file=path.stem, **json.loads(line))
        for path in sorted(FOLDER.glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]


def pieces(step: str | dict[str, Any]) -> list[bytes]:
    """The bytes of one step, in the pieces in which they are sent; none for a step that only waits."""
    if isinstance(step, str):
        return [step.encode("latin-1")] if step else []
    if "repeat" in step:
        return [step["repeat"].encode("latin-1") * step["times"]]
    if "bytewise" in step:
        return [bytes([byte]) for byte in step["bytewise"].encode("latin-1")]
    if "hello" in step:
        data = client_hello(step)
        size = max(1, len(data) // step.get("pieces", 1))
        return [data[i : i + size] for i in range(0, len(data), size)]
    return []


def whole(steps: list[str | dict[str, Any]] | str | None) -> bytes:
    """All bytes of all steps."""
    listed = [steps] if isinstance(steps, str) else steps or []
    return b"".join(piece for step in listed for piece in pieces(step))


EXTRAS = {
    "grease": (hellos.extension(0x0A0A, b""), hellos.extension(0xFAFA, b"\0")),
    "ech": (hellos.extension(0xFE0D, b"\0" * 180),),
}


def client_hello(step: dict[str, Any]) -> bytes:
    """A ClientHello as a step describes it."""
    name: str | None = step["hello"]
    if step.get("openssl"):
        return hellos.openssl_hello(name)
    if "bad" in step:
        return bad_hello(step["bad"], (name or "").encode())
    if step.get("extra") == "none":
        return hellos.records(hellos.hello_message(without_extensions=True))
    extensions = [] if name is None else [hellos.server_name(name.encode())]
    extensions += EXTRAS.get(step.get("extra", ""), ())
    if "share" in step:
        extensions.append(hellos.key_share(step["share"]))
    return hellos.records(hellos.hello_message(*extensions), step.get("record", 1 << 14))[: step.get("cut")]


def bad_hello(kind: str, name: bytes) -> bytes:
    """A ClientHello that is wrong in one way."""
    named = hellos.server_name(name)
    evil = hellos.server_name(b"evil.example")
    good = hellos.hello_message(named)
    messages = {
        "twice": hellos.hello_message(named, evil),
        "two-names": hellos.hello_message(hellos.server_name(name, b"evil.example")),
        "nul": hellos.hello_message(hellos.server_name(name + b"\0.evil.example")),
        "empty-list": hellos.hello_message(hellos.extension(0, b"\0\0")),
        "empty-name": hellos.hello_message(hellos.server_name(b"")),
        "type1": hellos.hello_message(hellos.server_name(name, kind=1)),
        "trailing": hellos.hello_message(hellos.extension(0, named[4:] + b"x")),
        "long-list": hellos.hello_message(hellos.extension(0, b"\x01\x00" + named[6:])),
        "second-hello": good + hellos.hello_message(evil),
        "server-hello": b"\x02" + good[1:],
        "after-extensions": hellos.hello_message(named, tail=b"x"),
        "dup-ext": hellos.hello_message(named, hellos.extension(23, b""), hellos.extension(23, b"")),
        "bad-session": hellos.hello_message(named, session=b"s" * 33),
        "no-ciphers": hellos.hello_message(named, ciphers=b""),
        "version2": hellos.hello_message(named, version=b"\x02\x00"),
        "wild": hellos.hello_message(hellos.server_name(b"*.github.com")),
        "space": hellos.hello_message(hellos.server_name(name + b" ")),
        "port": hellos.hello_message(hellos.server_name(name + b":443")),
        "idn": hellos.hello_message(hellos.server_name("bücher.example".encode())),
    }
    if kind == "alert-inside":
        return hellos.records(good, 40)[:45] + b"\x15\x03\x01\x00\x02\x01\x00" + hellos.records(good[40:])
    return hellos.records(messages[kind])
