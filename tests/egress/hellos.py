"""ClientHellos: built byte by byte, or by OpenSSL."""

from __future__ import annotations

import ssl
import struct


def openssl_hello(server_name: str | None, **options: object) -> bytes:
    """What OpenSSL sends first."""
    context = ssl.create_default_context()
    context.check_hostname = False
    for key, value in options.items():
        if key == "alpn":
            context.set_alpn_protocols(value)  # type: ignore[arg-type]
        else:
            setattr(context, key, value)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=server_name)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake with nobody")


def vector(size: int, data: bytes) -> bytes:
    """Length-prefixed bytes."""
    return len(data).to_bytes(size, "big") + data


def extension(kind: int, data: bytes) -> bytes:
    return struct.pack("!H", kind) + vector(2, data)


def server_name(*names: bytes, kind: int = 0) -> bytes:
    """A server_name extension with these names."""
    return extension(0, vector(2, b"".join(bytes([kind]) + vector(2, name) for name in names)))


def key_share(size: int) -> bytes:
    """A key_share extension of about that many bytes, as post-quantum groups make it."""
    return extension(51, vector(2, struct.pack("!H", 0x11EC) + vector(2, b"k" * size)))


def hello_message(
    *extensions: bytes, session: bytes = b"s" * 32, ciphers: bytes = b"\x13\x01\x13\x02", compression: bytes = b"\0",
    version: bytes = b"\x03\x03", tail: bytes = b"", without_extensions: bool = False,
) -> bytes:  # fmt: skip
    """A handshake message of type ClientHello."""
    body = version + b"r" * 32 + vector(1, session) + vector(2, ciphers) + vector(1, compression)
    if not without_extensions:
        body += vector(2, b"".join(extensions))
    body += tail
    return b"\x01" + vector(3, body)


def records(message: bytes, size: int = 1 << 14, version: bytes = b"\x03\x01") -> bytes:
    """The message in records of at most `size` bytes."""
    pieces = [message[i : i + size] for i in range(0, len(message), size)]
    return b"".join(b"\x16" + version + vector(2, piece) for piece in pieces)


def hello(name: bytes | None = b"api.test", *more: bytes, size: int = 1 << 14) -> bytes:
    """A good ClientHello in records."""
    named = () if name is None else (server_name(name),)
    return records(hello_message(*named, *more), size)
