"""What kind of refusal an answer of the Docker Engine is. The only place that reads the engine's prose.

The API has a status code and a sentence, and the sentence of a failed start is whatever the OCI runtime (runc, crun) wrote
in its version. Everything above this module acts on the type of the error alone.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.runtime.engine.errors import CapabilityRefused, LimitRefused, NameTaken
from gateway.runtime.sandbox.errors import EngineError

CONFLICT: Final = 409
NAME: Final = re.compile(r"name \S+ (?:is already in use|already exists)")
CAPABILITY: Final = re.compile(r"apply (?:bounding set|caps|capabilities)|unknown capability|capset:", re.IGNORECASE)
LIMIT: Final = re.compile(r"setting rlimits?\b|setrlimit", re.IGNORECASE)


def kind_of(status: int | None, sentence: str) -> type[EngineError]:
    """The type of error for an answer with this HTTP status."""
    if status == CONFLICT and NAME.search(sentence):
        return NameTaken
    if CAPABILITY.search(sentence):
        return CapabilityRefused
    if LIMIT.search(sentence):
        return LimitRefused
    return EngineError
