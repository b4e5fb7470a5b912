"""The JSON Schema (draft-07) that editors complete and check recipes with.

Form: ``allOf: [if kind = X then $ref]``. With ``oneOf``, editors (taplo, Even Better TOML) mark the
whole file for a single mistake.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from engine.kinds import Kind, load_kinds
from engine.recipe.compiling import GRAMMAR
from engine.recipe.overrides import RECIPE_KEYS

_REFERENCE = {"type": "string", "pattern": r"\$\{[^{}]+\}", "title": "reference"}


def json_schema(kinds: Mapping[str, Kind] | None = None) -> dict[str, Any]:
    """The schema of a recipe file, for every kind of this installation."""
    kinds = load_kinds().kinds if kinds is None else kinds
    definitions: dict[str, Any] = {}
    recipe_rules: list[dict[str, Any]] = []
    step_rules: list[dict[str, Any]] = []
    common = _common(kinds)
    for name, kind in sorted(kinds.items()):
        own = _own_schema(kind, definitions)
        definitions[f"{name}.recipe"] = _with_keys(own, common, f"a recipe of kind {name}", "kind")
        definitions[f"{name}.step"] = _with_keys(
            own, _step_keys(kinds), f"a step of kind {name}", "uses"
        )
        recipe_rules.append(_rule("kind", name, f"{name}.recipe"))
        step_rules.append(_rule("uses", name, f"{name}.step"))
    definitions["step"] = {
        "type": "object",
        "properties": _step_keys(kinds),
        "required": ["uses"],
        "allOf": step_rules,
    }
    definitions["pipeline"] = {
        "type": "object",
        "description": "Steps whose order is inferred from what they refer to.",
        "properties": {
            **common,
            "steps": {
                "type": "object",
                "description": "The steps by name.",
                "additionalProperties": {"$ref": "#/definitions/step"},
                "minProperties": 1,
            },
        },
        "required": ["kind", "steps"],
        "additionalProperties": False,
    }
    recipe_rules.append(_rule("kind", "pipeline", "pipeline"))
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "ModelOps TUI recipe",
        "type": "object",
        "properties": {"kind": common["kind"]},
        "required": ["kind"],
        "allOf": recipe_rules,
        "definitions": definitions,
    }


def _rule(key: str, value: str, definition: str) -> dict[str, Any]:
    return {
        "if": {"properties": {key: {"const": value}}, "required": [key]},
        "then": {"$ref": f"#/definitions/{definition}"},
    }


def _common(kinds: Mapping[str, Kind]) -> dict[str, Any]:
    keys = {
        "recipe": {"const": GRAMMAR, "description": "Version of the recipe grammar."},
        "name": {
            "type": "string",
            "description": "Name of the recipe; its artifacts begin with it.",
        },
        "kind": {
            "enum": [*sorted(kinds), "pipeline"],
            "description": "What the recipe does: "
            + "; ".join(f"{name}: {kind.summary}" for name, kind in sorted(kinds.items())),
        },
        "description": {"type": "string", "description": "One sentence, shown in the library."},
        "vars": {"type": "object", "description": "Values used as ${vars.name}."},
        "matrix": {
            "type": "object",
            "description": 'Keys to vary, each with a list of values: "train.lr" = [1e-4, 2e-4].',
        },
        "pick": {
            "type": "string",
            "pattern": r"^\s*(min|max)\s+\S+\s*$",
            "description": 'Which point of the matrix goes on: "min check.perplexity".',
        },
    }
    return {key: keys[key] for key in RECIPE_KEYS}


def _step_keys(kinds: Mapping[str, Kind]) -> dict[str, Any]:
    return {
        "uses": {"enum": sorted(kinds), "description": "The step's kind."},
        "require": {
            "type": "object",
            "description": 'Gates: numbers of earlier steps, such as "check.loss" = "<= 2".',
            "additionalProperties": {"type": ["string", "object"]},
        },
    }


def _own_schema(kind: Kind, definitions: dict[str, Any]) -> dict[str, Any]:
    """The kind's own schema; what it defines goes to ``definitions`` under the kind's name."""
    schema = copy.deepcopy(kind.model.model_json_schema())
    for name, definition in schema.pop("$defs", {}).items():
        definitions[f"{kind.name}.{name}"] = _converted(definition, kind.name)
    converted: dict[str, Any] = _converted(schema, kind.name)
    converted.get("properties", {}).pop("kind", None)
    return converted


def _converted(node: Any, prefix: str) -> Any:
    """Pydantic's 2020-12 output as draft-07, with references allowed where numbers stand."""
    if isinstance(node, list):
        return [_converted(item, prefix) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        # draft-07 ignores what stands beside a $ref
        target = f"#/definitions/{prefix}.{node['$ref'].rpartition('/')[2]}"
        rest = {key: value for key, value in node.items() if key != "$ref"}
        return {"allOf": [{"$ref": target}], **rest} if rest else {"$ref": target}
    made = {key: _converted(value, prefix) for key, value in node.items() if key != "x-ref"}
    properties = made.get("properties")
    if isinstance(properties, dict):
        made["properties"] = {key: _or_reference(value) for key, value in properties.items()}
    return made


def _or_reference(node: dict[str, Any]) -> dict[str, Any]:
    """A number, a flag or a choice may also be ``${vars.x}``; a text can be one anyway."""
    scalar = node.get("type") in ("integer", "number", "boolean") or "enum" in node
    options = node.get("anyOf")
    if scalar:
        told: dict[str, Any] = {
            key: node[key] for key in ("description", "default", "title") if key in node
        }
        plain = {key: value for key, value in node.items() if key not in told}
        return {**told, "anyOf": [plain, _REFERENCE]}
    if isinstance(options, list) and not any(
        option.get("type") == "string" and "enum" not in option for option in options
    ):
        return {**node, "anyOf": [*options, _REFERENCE]}
    return node


def _with_keys(
    own: dict[str, Any], extra: dict[str, Any], description: str, discriminator: str
) -> dict[str, Any]:
    return {
        **own,
        "title": description,
        "properties": {**extra, **own.get("properties", {})},
        "required": [discriminator, *own.get("required", [])],
        "additionalProperties": False,
    }
