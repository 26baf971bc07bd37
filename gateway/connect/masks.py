"""Hides secrets in what is shown of a client's file, whatever its format. Pure: it works on text, a diff included."""

from __future__ import annotations

import re
from typing import Final

HIDDEN: Final = "•" * 8
NAME: Final = (
    r"(?:token|secret|passwd|password|pass|pat|api[_-]?key|access[_-]?key|private[_-]?key|credentials?|authorization)"
)
KEYED: Final = re.compile(
    rf"""(?ix) (?P<lead> (?<![\w-]) ["']? [\w.-]* {NAME} ["']? [ \t]* [:=] [ \t]* )
    (?P<value> "(?:[^"\\\n]|\\.)*" | '[^'\n]*' | [^\s"'{{\[,\}}\]|>&*\#][^\n,\}}\]]* )"""
)
"""A key that ends in such a word, and its value."""
OPTION: Final = re.compile(
    rf"""(?ix) (?P<lead> --?[\w-]* {NAME} (?: = | ["']? [ \t]* ,? [ \t]* (?:\n[ +-][ \t]*)? (?:-[ \t]+)? ["']? ) )
    (?P<value> [^\s"',\]]+ )"""
)
"""The same as an option of a program, with its value in the same word or the next one."""
REFERENCE: Final = re.compile(r"^(?:\$\{.*\}|\$\w+|\{(?:env|file):.*\}|\$\(.*\)|<.*>)$")
SCHEME: Final = re.compile(r"(?i)^(?:bearer|basic|token|apikey) +")
IN_URL: Final = re.compile(r"(?P<lead>://[^\s/:@\"']*:)(?P<value>[^\s/@\"']+)(?=@)")
KNOWN: Final = re.compile(
    r"\b(?:gh[pousr]_\w{20,}|github_pat_\w{20,}|sk-[\w-]{16,}|xox[abpcr]-[\w-]{10,}|glpat-[\w-]{16,}|AKIA[A-Z0-9]{16}"
    r"|AIza[\w-]{30,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
)


def masked(text: str, *secrets: str) -> str:
    """The text without these secrets, and without whatever stands where secrets stand. Names of variables stay."""
    for secret in filter(None, secrets):
        text = text.replace(secret, HIDDEN)
    for pattern in (KEYED, OPTION, IN_URL):
        text = pattern.sub(lambda found: found["lead"] + hide(found["value"]), text)
    return KNOWN.sub(HIDDEN, text)


def hide(value: str) -> str:
    """A value without its secret; its quotes, its scheme (`Bearer`) and its remark stay."""
    quote = value[0] if value[:1] in ('"', "'") else ""
    inner = value[1:-1] if quote else value
    remark = "" if quote else "".join(re.findall(r"[ \t]+#.*$|[ \t]+$", inner)[:1])
    inner = inner.removesuffix(remark) if remark else inner
    scheme = found[0] if (found := SCHEME.match(inner)) else ""
    secret = inner.removeprefix(scheme)
    if not secret or REFERENCE.match(secret) or secret in ("true", "false", "null"):
        return value
    return f"{quote}{scheme}{HIDDEN}{quote}{remark}"
