"""A new recipe with every key of its kind: the needed ones set, the rest as comments."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
from typing import Any

from engine.kinds import Kind
from engine.recipe.schema_view import Field, schema_view

#: What stands for a needed reference, so that a new recipe runs as it is.
_EXAMPLES = {
    "a model": "smollm2-135m-instruct",
    "a dataset or a file": "house/train",
    "a path": "./documents",
}

PIPELINE = """\
#:schema ./recipe.schema.json
# A pipeline: its steps run in the order that their references ask for.
# Run it:     modelops-tui run FILE
# Change it:  modelops-tui run FILE --set train.lr=1e-4
recipe = 1
name = "{name}"
kind = "pipeline"

[vars]
base = "smollm2-135m-instruct"

[steps.train]
uses = "finetune"
base = "${{vars.base}}"
data = {{ train = "house/train", format = "chat" }}

[steps.check]
uses = "evaluate"
model = "${{train.model}}"
data = "house/heldout"

[steps.shrink]
uses = "quantize"
model = "${{train.model}}"
levels = ["Q4_K_M", "Q8_0"]
# require = {{ "check.perplexity" = "<= 12" }}

[steps.publish]
uses = "register"
model = "${{shrink.model}}"
name = "{name}"
stage = "dev"
"""


def new_recipe(kind: Kind, name: str) -> str:
    """The TOML text of a new recipe of ``kind``."""
    fields = schema_view(kind.model).fields()
    lines = [
        "#:schema ./recipe.schema.json",
        *textwrap.wrap(f"{kind.summary}", 96, initial_indent="# ", subsequent_indent="# "),
        "# Run it:     modelops-tui run FILE",
        "# Change it:  modelops-tui run FILE --set key=value",
        "# A key behind # has the value shown unless you set it.",
        "recipe = 1",
        f'name = "{name}"',
        f'kind = "{kind.name}"',
    ]
    own = [f for f in fields if len(f.path) == 1 and f.path[0] not in ("kind", "name")]
    lines += _keys(own)
    tables: dict[tuple[str, ...], list[Field]] = {}
    for item in fields:
        if len(item.path) > 1:
            tables.setdefault(item.path[:-1], []).append(item)
    for path, members in tables.items():
        # a table of defaults only is a comment as a whole, so that the file stays as small as it is
        lines += ["", f"[{'.'.join(path)}]", *_keys(members)]
    return "\n".join(lines) + "\n"


def _keys(fields: Iterable[Field]) -> list[str]:
    lines: list[str] = []
    for item in fields:
        lines.append("")
        words = item.description or ""
        # the expected values are said where the description does not list them already
        text = (
            f"{words} ({item.expected})" if words else item.expected[:1].upper() + item.expected[1:]
        )
        lines += textwrap.wrap(text, 96, initial_indent="# ", subsequent_indent="# ")
        if item.required:
            lines.append(f"{item.path[-1]} = {toml_value(_example(item))}")
        elif item.default is None:
            empty = {"a table": " {}", "a list": " []"}
            value = next((v for k, v in empty.items() if item.expected.startswith(k)), "")
            lines.append(f"# {item.path[-1]} ={value}")
        else:
            lines.append(f"# {item.path[-1]} = {toml_value(item.default)}")
    return [line for i, line in enumerate(lines) if line or i]


def _example(item: Field) -> Any:
    if item.path[-1].startswith("folder"):
        return "docs" if not item.expected.startswith("a list") else ["docs"]
    for words, example in _EXAMPLES.items():
        if item.expected.startswith(words):
            return example
        if item.expected.startswith("a list") and words.split()[-1] in item.expected:
            return [example]
    if item.choices:
        return item.choices[0]
    if item.expected.startswith("a list of texts"):
        return ["./documents"]
    if item.expected.startswith("a list"):
        return []
    if item.expected.startswith(("a whole number", "a number")):
        return 1
    return "my-model"


def toml_value(value: Any) -> str:
    """A JSON-like value as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, dict):
        pairs = [f"{toml_key(key)} = {toml_value(item)}" for key, item in value.items()]
        return "{ " + ", ".join(pairs) + " }" if pairs else "{}"
    return json.dumps(str(value), ensure_ascii=False)


def toml_key(key: str) -> str:
    """A key, quoted where TOML needs it."""
    bare = key and all(c.isascii() and (c.isalnum() or c in "-_") for c in key)
    return key if bare else json.dumps(key, ensure_ascii=False)
