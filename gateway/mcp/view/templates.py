"""Which URIs a URI template can make (RFC 6570); in doubt, it can.

Theory of operation. Templates are a backend's text, so no regular expression is made of them: one with a dozen `.*` would
keep the gateway busy for hours. A matcher is a set of places in the URI at which the rest of the template may begin, kept
as the bits of one whole number (bit n: place n), so that a step of all places at once is a few operations on it:

* literal text: a place stays where each character fits the mask of that character, shifted;
* a simple expression (`{x}`) reaches from each place to the next slash: `places + not_slash` carries a bit through each
  run of characters that are no slash, to its end;
* any other expression reaches from the first place on, everywhere.

So one template costs a few operations of C for each of its characters, on numbers of 2,048 bits, and what depends on the
URI alone (the masks) is made once for all templates.
"""

from __future__ import annotations

import re
from typing import Final

_EXPRESSION: Final = re.compile(r"\{([+#./;?&]?)([^{}]*)\}")
_SEGMENT: Final = ""
_OPTIONAL: Final = frozenset("?&#")
_MAX_EXPRESSIONS: Final = 16
_MAX_MATCHED: Final = 2048
_MAX_TEMPLATE: Final = 1024


class Text:
    """A URI, with the positions of each character."""

    __slots__ = ("_masks", "all", "length", "not_slash", "uri")

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.length = len(uri)
        self.all = (1 << (self.length + 1)) - 1
        self._masks: dict[str, int] = {}
        self.not_slash = self.all >> 1 & ~self.mask("/")

    def mask(self, character: str) -> int:
        """The positions of a character."""
        found = self._masks.get(character)
        if found is None:
            found, at = 0, self.uri.find(character)
            while at >= 0:
                found |= 1 << at
                at = self.uri.find(character, at + 1)
            self._masks[character] = found
        return found


class TemplatePattern:
    """The URIs that a template can make."""

    __slots__ = ("_parts",)

    def __init__(self, template: str) -> None:
        self._parts: list[tuple[str, str | None]] | None = []
        """(text, the operator of the expression after it; None at the end); None for a template that is too long."""
        end = 0
        for found in _EXPRESSION.finditer(template):
            self._parts.append((template[end : found.start()], found[1]))
            end = found.end()
        self._parts.append((template[end:], None))
        if len(self._parts) > _MAX_EXPRESSIONS + 1 or len(template) > _MAX_TEMPLATE:
            self._parts = None

    def matches(self, uri: str | Text) -> bool:
        """Whether the template can make that URI."""
        length = len(uri) if isinstance(uri, str) else uri.length
        if self._parts is None or length > _MAX_MATCHED:
            return False
        text = Text(uri) if isinstance(uri, str) else uri
        first, operator = self._parts[0]
        if not text.uri.startswith(first):
            return False
        places = 1 << len(first)
        if operator is not None:
            places = _after(text, places, operator)
        for literal, operator in self._parts[1:]:
            for character in literal:
                places = (places & text.mask(character)) << 1
                if not places:
                    return False
            if operator is not None:
                places = _after(text, places, operator)
        return bool(places >> text.length & 1)


def _after(text: Text, places: int, operator: str) -> int:
    """Where an expression that begins at one of these positions may end."""
    if operator == _SEGMENT:
        begun = places & text.not_slash
        return places | ((text.not_slash + begun) ^ text.not_slash)
    if operator in _OPTIONAL:
        begun = places & text.mask(operator)
        return places | _from(text, (begun & -begun) << 1) if begun else places
    return _from(text, places & -places)


def _from(text: Text, lowest: int) -> int:
    """Every position from this one on."""
    return text.all & ~(lowest - 1)
