"""``modelops-tui serve``: deployments from start to stop."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import asdict
from typing import Annotated, Any

import typer

from engine.api import Workbench
from engine.errors import BadInput
from engine.types.serving import DeploymentState, DeploymentView
from modelops_tui.cli.output import Format, out
from modelops_tui.cli.wording import size

app = typer.Typer(
    help="Serve models over the OpenAI protocol: start, list, switch, stop.", no_args_is_help=True
)

#: Who gets memory, in the words the CLI and docs/serve.md use.
MEMORY_RULE = (
    "a deployment holds its share until it is stopped or paused, asleep too; any other job starts"
    " only when its own need fits into what is left, and says who holds the rest"
)
_GONE = (DeploymentState.STOPPED, DeploymentState.FAILED, DeploymentState.PAUSED)
#: Columns of `serve list` beside the names.
_FIGURES = {
    "requests_per_s": "req/s",
    "tokens_per_s": "tok/s",
    "queued": "queued",
    "p50_ms": "p50 ms",
    "p95_ms": "p95 ms",
    "memory": "memory",
    "share": "share",
}

Name = Annotated[str, typer.Argument(help="The deployment.")]
Json = Annotated[bool, typer.Option("--json", help="Write JSON.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it answers.")]


@app.command()
def start(
    model: Annotated[str, typer.Argument(help="NAME@STAGE, a packaged model, a folder or GGUF.")],
    name: Annotated[str, typer.Option(help="Of the deployment (default: the model's).")] = "",
    backend: Annotated[str, typer.Option(help="llama.cpp, vllm, or a plugin's.")] = "llama.cpp",
    adapter: Annotated[
        list[str] | None, typer.Option(help="NAME=REF of an adapter over the model.")
    ] = None,
    task: Annotated[str, typer.Option(help="chat or embed.")] = "chat",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: a free one, kept for good.")] = 0,
    context: Annotated[int, typer.Option(help="Tokens of a conversation.")] = 2048,
    memory: Annotated[str, typer.Option(help="Its share of the device, '2 GiB'.")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads; 0: all.")] = 0,
    idle_minutes: Annotated[float, typer.Option(help="Unload when idle so long.")] = 0.0,
    no_key: Annotated[bool, typer.Option("--no-key", help="Ask for no API key.")] = False,
    pin: Annotated[bool, typer.Option("--pin", help="Stay with this version.")] = False,
    tls_certificate: Annotated[str, typer.Option(help="PEM file: https.")] = "",
    tls_key: Annotated[str, typer.Option(help="PEM file.")] = "",
    wait: Wait = True,
    as_json: Json = False,
) -> None:
    """Serve a model. It runs until `serve stop`, whatever happens to this terminal.

    A deployment holds its share of the memory (--memory, else an estimate) until it is stopped or
    paused; a training job starts only when it fits into what is left.
    """
    out.choose(as_json=as_json)
    serving = Workbench().serving
    settings: dict[str, Any] = {} if not port else {"port": port}
    view = serving.start(
        model, name=name, backend=backend, adapters=_pairs(adapter or []), memory=memory,
        threads=threads, task=task, host=host, context=context, idle_minutes=idle_minutes,
        api_key=not no_key, pinned=pin, tls_certificate=tls_certificate, tls_key=tls_key,
        **settings,
    )  # fmt: skip
    out.say(f"submitted job {view.job_id}")
    if wait:
        view = serving.wait_ready(view.name)
    _show(view)


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, ref = text.partition("=")
        if not equals or not name or not ref:
            raise BadInput(f"{text!r} is no adapter", hint="write --adapter NAME=REF")
        pairs[name] = ref
    return pairs


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Every deployment with its address and figures, and the rule by which memory is shared."""
    out.choose(as_json=as_json)
    views = Workbench().serving.list()
    out.rows(
        ["name", "state", "ref", "backend", "url", *_FIGURES],
        [{**asdict(view), **_figures(view)} for view in views],
        titles=_FIGURES,
        empty="nothing is deployed\nhint: modelops-tui serve start MODEL",
    )
    held = [view.share_bytes or 0 for view in views if view.state not in _GONE]
    if held and not as_json:
        count = "1 deployment" if len(held) == 1 else f"{len(held)} deployments"
        out.say(f"{size(sum(held))} held by {count}; {MEMORY_RULE}")


def _figures(view: DeploymentView) -> dict[str, Any]:
    return {
        "p50_ms": view.latency_ms.get("p50"),
        "p95_ms": view.latency_ms.get("p95"),
        "memory": size(view.memory_bytes) if view.memory_bytes else None,
        "share": size(view.share_bytes) if view.share_bytes else None,
    }


@app.command()
def status(name: Name, as_json: Json = False) -> None:
    """One deployment: state, versions, memory, rates and latencies."""
    out.choose(as_json=as_json)
    view = Workbench().serving.get(name)
    _show(view)


@app.command()
def stop(name: Name, as_json: Json = False) -> None:
    """Finish what runs, then stop. Address and key are kept for the next start."""
    out.choose(as_json=as_json)
    _show(Workbench().serving.stop(name, wait_s=60))


@app.command()
def restart(name: Name, wait: Wait = True, as_json: Json = False) -> None:
    """Stop it where it runs and start it again, at the same address."""
    out.choose(as_json=as_json)
    serving = Workbench().serving
    view = serving.restart(name)
    _show(serving.wait_ready(name) if wait else view)


@app.command()
def logs(
    name: Name,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends.")] = False,
    as_json: Json = False,
) -> None:
    """The end of what its servers wrote."""
    out.choose(as_json=as_json)
    path = Workbench().serving.log_path(name)
    if follow:
        if as_json:
            raise BadInput("--follow has no end that JSON could have", hint="leave one of them out")
        from modelops_tui.cli.jobs import log

        log(Workbench().serving.get(name).job_id, keep=True, lines=lines)
        return
    last: deque[str] = deque(maxlen=lines)
    with suppress(FileNotFoundError), path.open(encoding="utf-8", errors="replace") as file:
        last.extend(line.rstrip("\n").replace("\0", "") for line in file)
    if out.format is not Format.TABLE:
        out.json({"name": name, "file": str(path), "lines": list(last)})
        return
    for line in last:
        out.line(line)
    if not last:
        out.say(f"nothing was written yet\nhint: modelops-tui serve status {name}")


@app.command()
def key(name: Name, as_json: Json = False) -> None:
    """Print its API key."""
    out.choose(as_json=as_json)
    found = Workbench().serving.key(name)
    if out.format is not Format.TABLE:
        out.json({"name": name, "key": found or None})
        return
    out.line(found)
    if not found:
        out.say(f"{name} asks for no key")


@app.command()
def url(name: Name, as_json: Json = False) -> None:
    """Print the base URL of its OpenAI-compatible API."""
    out.choose(as_json=as_json)
    found = Workbench().serving.get(name).url
    if out.format is not Format.TABLE:
        out.json({"name": name, "url": found})
        return
    out.line(found)


@app.command()
def switch(
    name: Name,
    ref: Annotated[str, typer.Argument(help="The version to serve.")],
    as_json: Json = False,
) -> None:
    """Serve another version: started beside, checked, switched; no request fails."""
    out.choose(as_json=as_json)
    _show(Workbench().serving.switch(name, ref))


@app.command()
def rollback(name: Name, as_json: Json = False) -> None:
    """Serve the version before, and pin it."""
    out.choose(as_json=as_json)
    _show(Workbench().serving.rollback(name))


@app.command()
def pin(name: Name, as_json: Json = False) -> None:
    """Stay with this version, whatever is promoted."""
    out.choose(as_json=as_json)
    _show(Workbench().serving.pin(name))


@app.command()
def unpin(name: Name, as_json: Json = False) -> None:
    """Follow the stage again."""
    out.choose(as_json=as_json)
    _show(Workbench().serving.pin(name, pinned=False))


@app.command()
def load(
    name: Name,
    adapter: Annotated[str, typer.Argument(help="NAME=REF: what clients call it, and which.")],
    as_json: Json = False,
) -> None:
    """Load an adapter into a running deployment (vLLM; llama.cpp takes one at its start)."""
    out.choose(as_json=as_json)
    ((label, ref),) = _pairs([adapter]).items()
    _show(Workbench().serving.load_adapter(name, label, ref))


@app.command()
def unload(
    name: Name,
    adapter: Annotated[str, typer.Argument(help="What clients call it.")],
    as_json: Json = False,
) -> None:
    """Unload an adapter from a running deployment."""
    out.choose(as_json=as_json)
    _show(Workbench().serving.unload_adapter(name, adapter))


@app.command()
def sleep(name: Name, as_json: Json = False) -> None:
    """Unload it now; the next request wakes it."""
    out.choose(as_json=as_json)
    _show(Workbench().serving.sleep(name))


@app.command()
def wake(name: Name, as_json: Json = False) -> None:
    """Load it again."""
    out.choose(as_json=as_json)
    _show(Workbench().serving.wake(name))


@app.command()
def pause(name: Name, as_json: Json = False) -> None:
    """Stop it for a while and give its memory to others."""
    out.choose(as_json=as_json)
    _show(Workbench().serving.pause(name))


@app.command()
def resume(name: Name, as_json: Json = False) -> None:
    """Bring a paused deployment back."""
    out.choose(as_json=as_json)
    _show(Workbench().serving.resume(name))


@app.command()
def remove(name: Name, as_json: Json = False) -> None:
    """Forget a stopped deployment, with its key."""
    out.choose(as_json=as_json)
    Workbench().serving.remove(name)
    if out.format is not Format.TABLE:
        out.json({"name": name, "removed": True})
        return
    out.say(f"removed {name}")


def _show(view: DeploymentView) -> None:
    record = asdict(view)
    record["state"] = str(view.state)
    record["current"] = view.current.name if view.current else None
    record["previous"] = [version.name for version in view.previous]
    out.record({k: v for k, v in record.items() if v not in (None, "", (), [], {})})
    if view.state in ("ready", "asleep"):
        auth = f" -H 'Authorization: Bearer '$(cat {view.key_file})" if view.key_file else ""
        out.say(f"try: curl {view.url}/models{auth}")
