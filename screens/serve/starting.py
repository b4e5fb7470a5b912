"""From a model to an endpoint, or to a chat with it: from the Serve and the Registry screen."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from engine.types.serving import DeploymentView
from screens.detail_screen import DetailScreen

_OPTIONS: dict[str, Callable[[str], Any]] = {
    "name": str,
    "backend": str,
    "task": str,
    "host": str,
    "port": int,
    "context": int,
    "memory": str,
    "threads": int,
    "idle_minutes": float,
}
_HINT = (
    "name@stage follows the stage; a file or smollm2-135m-instruct works too. Behind it, where"
    " wanted: name=, backend=vllm, context=4096, memory='2 GiB', idle_minutes=10, adapter=NAME=REF"
)


def start_options(text: str) -> tuple[str, dict[str, Any]]:
    """``support@prod backend=vllm context=4096 pin`` as (reference, options of ``serving.start``).

    Raises:
        ValueError: no reference, or a word that is no option or has a wrong value.
    """
    ref, *words = shlex.split(text) or [""]
    if not ref or ref.partition("=")[0] in _OPTIONS:
        raise ValueError("the first word is the model")
    found: dict[str, Any] = {}
    for word in words:
        name, _, value = word.partition("=")
        if word == "pin":
            found["pinned"] = True
        elif name == "adapter" and "=" in value:
            label, _, adapter = value.partition("=")
            found.setdefault("adapters", {})[label] = adapter
        elif name in _OPTIONS and value:
            try:
                found[name] = _OPTIONS[name](value)
            except ValueError:
                raise ValueError(f"{name} can't be {value!r}") from None
        else:
            raise ValueError(f"{word!r} is none of {', '.join(_OPTIONS)}, adapter=NAME=REF, pin")
    return ref, found


class Starting(DetailScreen):
    """A deployment is accepted at once; the Serve screen tells when it answers."""

    def ask_to_serve(self, value: str, *, show: bool = False) -> None:
        """Ask what to serve, and how, and start it.

        Args:
            value: what is offered.
            show: go to the Serve screen then.
        """

        def named(text: str) -> None:
            try:
                ref, options = start_options(text)
            except ValueError as error:
                self.say(f"{text}: {error}")
                return
            work = partial(self.workbench.serving.start, ref, **options)
            self.in_thread("start", work, done)

        def done(view: DeploymentView) -> None:
            self.say(f"{view.name} starts at {view.url}")
            if show and self.is_current:
                self.work_app.action_show("serve")
            else:
                self.action_reload()

        self.ask_line("Serve what?", _HINT, named, value)

    def chat_with(self, models: Sequence[str]) -> None:
        """Go to the Chat screen and begin with these models."""
        self.work_app.wanted_talk = tuple(models)
        self.work_app.action_show("chat")
