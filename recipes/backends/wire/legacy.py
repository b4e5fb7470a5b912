"""A model folder as libraries of the transformers 4 time can read it.

A version 5 configuration keeps ``rope_theta`` inside ``rope_parameters``; version 4 does not look
there and silently computes with 10000.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path


def legacy_folder(source: Path) -> Path:
    """A temporary folder of links to ``source`` with a version 4 ``config.json``."""
    folder = Path(tempfile.mkdtemp(prefix="modelops-legacy-"))
    for file in source.iterdir():
        # tokenizers of version 5 do not load in version 4, and are not needed: ids come from us
        if (file.is_file() and file.suffix == ".safetensors") or file.name.endswith(".index.json"):
            (folder / file.name).symlink_to(file.resolve())
    config = legacy_config(json.loads((source / "config.json").read_text(encoding="utf-8")))
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def legacy_config(config: dict[str, object]) -> dict[str, object]:
    """``rope_parameters`` and ``dtype`` of version 5 by their version 4 names."""
    found = dict(config)
    rope = found.pop("rope_parameters", None)
    if isinstance(rope, dict):
        scaling = dict(rope)
        if "rope_theta" in scaling:
            found["rope_theta"] = scaling.pop("rope_theta")
        if scaling.get("rope_type", "default") != "default":
            found["rope_scaling"] = scaling
    if "dtype" in found:
        found["torch_dtype"] = found.pop("dtype")
    return found
