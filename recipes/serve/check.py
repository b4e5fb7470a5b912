"""Mistakes of a ``serve`` step found before it is accepted."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

from engine.devices.needs import parse_bytes
from engine.devices.probe import devices
from engine.errors import ModelOpsError, Refused
from engine.kinds import load_function
from engine.models import ModelLocation, resolve_model
from engine.plugins import extensions
from engine.queue.schedule import gib
from engine.recipe.check import CheckContext, Problem
from engine.serving import records
from engine.serving.ports import port_problem
from engine.types.system import EstimateContext
from recipes.serve.estimate import estimate
from recipes.serve.kinship import require_kin
from recipes.serve.schema import ServeSpec


def check(spec: ServeSpec, context: CheckContext) -> list[Problem]:
    """Everything that can be seen without loading a model."""
    problems = [*_address(spec), *_name(spec, context)]
    location = None
    if not context.is_reference(spec.model):
        try:
            location = resolve_model(spec.model, context.paths)
        except ModelOpsError as error:
            problems.append(Problem(("model",), str(error), error.hint))
    if location is not None:
        problems += [*_adapters(spec, location, context), *_room(spec, context)]
    try:
        backend = extensions("serving backend").get(spec.backend)
        problems += load_function(backend.check)(spec, location, context.paths)
    except ModelOpsError as error:
        problems.append(Problem(("backend",), str(error), error.hint))
    return problems


def _address(spec: ServeSpec) -> list[Problem]:
    problems = []
    try:
        loopback = ipaddress.ip_address(spec.host).is_loopback
    except ValueError:
        problems.append(Problem(("host",), f"{spec.host!r} is no IP address", 'use "127.0.0.1"'))
        return problems
    if not loopback and not spec.api_key:
        problems.append(
            Problem(
                ("api_key",),
                f"{spec.host} can be reached from outside, and no key is asked for",
                "leave api_key on, or listen on 127.0.0.1",
            )
        )
    if not loopback and not spec.tls_certificate:
        problems.append(
            Problem(
                ("host",),
                f"{spec.host} can be reached from outside, and the key travels unencrypted",
                "set tls_certificate and tls_key",
                "warning",
            )
        )
    if bool(spec.tls_certificate) != bool(spec.tls_key):
        problems.append(Problem(("tls_key",), "tls_certificate and tls_key belong together"))
    for key, text in (("tls_certificate", spec.tls_certificate), ("tls_key", spec.tls_key)):
        if text and not Path(text).expanduser().is_file():
            problems.append(Problem((key,), f"there is no file {text}"))
    return problems


def _name(spec: ServeSpec, context: CheckContext) -> list[Problem]:
    if not spec.deployment:
        return []
    try:
        records.check_name(spec.deployment)
    except ModelOpsError as error:
        return [Problem(("deployment",), str(error), error.hint)]
    if spec.port and not records.exists(context.paths, spec.deployment):
        family = socket.AF_INET6 if ":" in spec.host else socket.AF_INET
        problem = port_problem(spec.host, spec.port, family)
        if problem:
            return [Problem(("port",), problem, "choose another, or 0 for a free one")]
    return []


def _room(spec: ServeSpec, context: CheckContext) -> list[Problem]:
    """A deployment that no device of this machine could ever hold would wait for good."""
    device = spec.resources.device
    declared = spec.resources.memory
    if declared == "auto":
        try:
            need = estimate(spec, EstimateContext(context.paths, device)).memory_bytes
        except ModelOpsError:
            # the model's own problem is told by its backend's check
            return []
    else:
        need = parse_bytes(declared)
    found = devices()
    on_gpu = [d for d in found if d.lane.startswith("gpu-")]
    usable = found if device not in ("auto", "cpu") else on_gpu or found
    if device == "cpu":
        usable = [d for d in found if not d.lane.startswith("gpu-")]
    largest = max((d.memory_total for d in usable), default=0)
    if not largest or need <= largest:
        return []
    return [
        Problem(
            ("resources", "memory"),
            f"the model does not fit: it needs {gib(need)}, the largest device has {gib(largest)}",
            "a smaller quantization, a shorter context, or a smaller model",
        )
    ]


def _adapters(spec: ServeSpec, location: ModelLocation, context: CheckContext) -> list[Problem]:
    problems = []
    for name, ref in spec.adapters.items():
        if context.is_reference(ref):
            continue
        try:
            records.check_name(name)
            adapter = resolve_model(ref, context.paths)
        except ModelOpsError as error:
            problems.append(Problem(("adapters", name), str(error), error.hint))
            continue
        try:
            require_same_base(adapter, location)
        except ModelOpsError as error:
            problems.append(Problem(("adapters", name), str(error), error.hint))
    return problems


def require_same_base(adapter: ModelLocation, location: ModelLocation) -> None:
    """Refuse an adapter that can't go on ``location``.

    Artifacts and folders are told apart by their identity. A GGUF is another file than the base it
    was made from: those are told apart by their embeddings, and by shapes when put together.

    Raises:
        Refused: it is a whole model, or was trained on another base.
    """
    base = adapter.base
    if base is None:
        raise Refused(f"{adapter.name!r} is a whole model, not an adapter")
    if location.kind == "gguf":
        require_kin(adapter, location.path)
        return
    if base.kind == "gguf":
        return
    same = base.path == location.path
    if base.manifest and location.manifest:
        same = base.manifest == location.manifest
    if not same:
        raise Refused(
            f"{adapter.name!r} was trained on {base.name!r}, not on {location.name!r}",
            hint="serve it over its own base",
        )
