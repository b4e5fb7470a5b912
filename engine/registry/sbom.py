"""The bill of materials of an artifact, as a CycloneDX 1.6 ML-BOM.

It follows from the manifest and its parents alone, so the hash that the manifest signs can be made
again at any time. https://cyclonedx.org/docs/1.6/json/
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from typing import Any

from engine.registry.documents import FileEntry, Manifest


def cyclonedx(manifest: Manifest, parents: Iterable[Manifest]) -> bytes:
    """The ML-BOM of a manifest whose parents are known here."""
    known = {(p.name, p.version): p for p in parents}
    component = {
        "type": "data" if manifest.type == "dataset" else "machine-learning-model",
        "bom-ref": f"{manifest.name}@{manifest.version}",
        "name": manifest.name,
        "version": manifest.version,
        "description": manifest.card.partition("\n")[0].lstrip("# ")[:200],
        **_license(manifest.license),
        "components": [_file(entry) for entry in manifest.files],
    }
    if manifest.type != "dataset":
        component["modelCard"] = {
            "quantitativeAnalysis": {
                "performanceMetrics": [
                    {"type": name, "value": value} for name, value in manifest.metrics.items()
                ]
            }
        }
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": _serial(manifest),
        "version": 1,
        "metadata": {
            "timestamp": manifest.created,
            "tools": {"components": [{"type": "application", "name": "modelops-tui"}]},
            "component": component,
        },
        "components": [_parent(parent) for parent in known.values()],
        "dependencies": [
            {
                "ref": component["bom-ref"],
                "dependsOn": [f"{p.name}@{p.version}" for p in known.values()],
            }
        ],
    }
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def _serial(manifest: Manifest) -> str:
    seed = "\n".join([manifest.registry, manifest.name, manifest.version, manifest.created])
    return f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, seed)}"


def _license(expression: str | None) -> dict[str, Any]:
    return {"licenses": [{"expression": expression}]} if expression else {}


def _file(entry: FileEntry) -> dict[str, Any]:
    return {
        "type": "file",
        "name": entry.path,
        "mime-type": entry.media_type,
        "hashes": [{"alg": "SHA-256", "content": entry.sha256}],
    }


def _parent(parent: Manifest) -> dict[str, Any]:
    return {
        "type": "data" if parent.type == "dataset" else "machine-learning-model",
        "bom-ref": f"{parent.name}@{parent.version}",
        "name": parent.name,
        "version": parent.version,
        **_license(parent.license),
    }
