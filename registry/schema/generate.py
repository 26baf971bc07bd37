"""Writes `stockade.schema.json` from the models: `python -m registry.schema.generate`.

An editor uses it by a first line in stockade.yaml: `# yaml-language-server: $schema=PATH`. The descriptions are the
texts under the fields in the source, read with `ast` here so that no start of the program pays for it.
"""

from __future__ import annotations

import ast
import inspect
import json
import types
from pathlib import Path
from typing import Any

import registry.config
import registry.model.build
import registry.model.network
import registry.model.server
import registry.model.settings

FILE = Path(__file__).with_name("stockade.schema.json")
MODULES = (
    registry.config,
    registry.model.build,
    registry.model.network,
    registry.model.server,
    registry.model.settings,
)


def generate() -> dict[str, Any]:
    """The schema as JSON values."""
    schema = registry.config.Config.model_json_schema(by_alias=True)
    texts = {name: found for module in MODULES for name, found in descriptions(module).items()}
    models = {"Config": schema, **schema["$defs"]}
    for name, model in models.items():
        for key, field in model.get("properties", {}).items():
            attribute = "servers" if (name, key) == ("Config", "mcpServers") else key
            if text := describe(name, attribute, texts):
                field["description"] = text
    server = schema["$defs"]["Server"]
    server["properties"]["transport"] = {**server["properties"]["type"], "description": "The same as `type`."}
    server["oneOf"] = [{"required": [kind]} for kind in registry.model.server.KINDS]
    for model in models.values():
        for field in model.get("properties", {}).values():
            tidy(field)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Stockade configuration"}
    return {**head, **{key: value for key, value in schema.items() if key != "title"}}


def tidy(field: dict[str, Any]) -> None:
    """Closes mappings of names, and drops what says nothing: whole sections as defaults, titles made of keys."""
    field.pop("title", None)
    if isinstance(field.get("default"), dict | list) or field.get("default", 0) is None:
        del field["default"]
    if "patternProperties" in field:
        field["additionalProperties"] = False


def describe(model: str, attribute: str, texts: dict[str, dict[str, str]]) -> str:
    """The text under a field of a model, or under that field of a model that it extends."""
    found = next((cls for module in MODULES for name, cls in vars(module).items() if name == model), None)
    bases = inspect.getmro(found) if inspect.isclass(found) else ()
    return next((texts[base.__name__][attribute] for base in bases if attribute in texts.get(base.__name__, {})), "")


def descriptions(module: types.ModuleType) -> dict[str, dict[str, str]]:
    """For each class of a module, the text under each of its fields."""
    tree = ast.parse(inspect.getsource(module))
    return {node.name: field_texts(node) for node in tree.body if isinstance(node, ast.ClassDef)}


def field_texts(node: ast.ClassDef) -> dict[str, str]:
    texts: dict[str, str] = {}
    for statement, following in zip(node.body, node.body[1:], strict=False):
        match statement, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                texts[name] = " ".join(text.split())
    return texts


def render() -> str:
    """The schema as the text of its file."""
    return json.dumps(generate(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(render(), "utf-8")
