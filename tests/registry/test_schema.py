"""The JSON Schema that editors use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from registry.schema.generate import FILE, generate, render


def keys(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, model in {"": schema, **schema["$defs"]}.items():
        for key, field in model.get("properties", {}).items():
            yield f"{name}.{key}", field


def test_the_file_in_the_package_is_current() -> None:
    assert FILE.read_text("utf-8") == render(), "run: python -m registry.schema.generate"


def test_every_key_has_a_description() -> None:
    assert [name for name, field in keys(generate()) if not field.get("description")] == []


def test_names_and_sections_are_closed() -> None:
    schema = json.loads(render())
    assert schema["additionalProperties"] is False
    assert schema["properties"]["mcpServers"]["additionalProperties"] is False
    assert schema["$defs"]["Server"]["oneOf"] == [{"required": [kind]} for kind in ("command", "image", "url")]
