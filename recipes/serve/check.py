"""Mistakes of a ``serve`` step found before it is accepted."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

from engine.errors import ModelOpsError
from engine.kinds import load_function
from engine.models import ModelLocation, resolve_model
from engine.plugins import extensions
from engine.recipe.check import CheckContext, Problem
from engine.serving import records
from engine.serving.ports import port_problem
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
        problems += _adapters(spec, location, context)
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
        if adapter.base is None:
            problems.append(
                Problem(("adapters", name), f"{ref!r} is a whole model, not an adapter")
            )
        elif not _same_base(adapter.base, location):
            problems.append(
                Problem(
                    ("adapters", name),
                    f"{ref!r} was trained on {adapter.base.name!r}, not on {location.name!r}",
                    "serve it over its own base",
                )
            )
    return problems


def _same_base(base: ModelLocation, location: ModelLocation) -> bool:
    """Whether an adapter's base can be what is served.

    Known by artifact or path; a quantized form of the base is another artifact, so a different one
    is told apart by its shapes when the adapter is put on.
    """
    if base.manifest and location.manifest:
        return base.manifest == location.manifest or location.kind == "gguf"
    return base.path == location.path or location.kind == "gguf" or base.kind == "gguf"
