"""What can be done with a deployment: start, stop, restart, other versions, sleep, adapters."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from engine.types.serving import DeploymentState, DeploymentView
from screens.dialogs import CommandDialog, ConfirmDialog
from screens.serve.lines import OVER, curl_line
from screens.serve.starting import Starting


class DeploymentVerbs(Starting):
    """Each asks where a request could fail by it, works in a thread, and says what happened."""

    @property
    def deployment(self) -> DeploymentView | None:
        """The chosen deployment."""
        view: DeploymentView | None = self.item
        if view is None:
            self.say("no deployment is chosen; R starts one")
        return view

    def _do(self, group: str, work: Callable[[], Any], told: str) -> None:
        def done(_: Any) -> None:
            self.say(told)
            self.action_reload()

        self.in_thread(group, work, done)

    def _confirm(self, question: str, told: str, then: Callable[[], None]) -> None:
        def answered(yes: bool | None) -> None:
            if yes:
                then()

        self.app.push_screen(ConfirmDialog(question, told), answered)

    # -- start and stop ---------------------------------------------------------------------------

    def action_start_deployment(self) -> None:
        """Start a stopped one again; else ask what to serve."""
        view: DeploymentView | None = self.item
        if view is None or view.state not in OVER:
            self.action_new_deployment()
            return
        work = partial(self.workbench.serving.restart, view.name)
        self._do("start", work, f"{view.name} starts again at {view.url}")

    def action_new_deployment(self) -> None:
        """Ask what to serve."""
        self.ask_to_serve("smollm2-135m-instruct")

    def action_restart_deployment(self) -> None:
        """Stop it and start it again, at the same address."""
        if (view := self.deployment) is None:
            return
        work = partial(self.workbench.serving.restart, view.name)
        told = f"{view.name} starts again at {view.url}"
        if view.state in OVER:
            self._do("start", work, told)
            return
        cost = f"Requests to {view.url} fail until it answers again."
        self._confirm(f"Restart {view.name}?", cost, partial(self._do, "start", work, told))

    def action_stop_deployment(self) -> None:
        """Finish what runs, then stop."""
        if (view := self.deployment) is None:
            return
        work = partial(self.workbench.serving.stop, view.name)
        then = partial(self._do, "stop", work, f"{view.name} finishes what runs, then stops")
        told = f"Requests to {view.url} fail from then on. Address and key are kept."
        self._confirm(f"Stop {view.name} ({view.ref})?", told, then)

    def action_pause_deployment(self) -> None:
        """Give its memory to others for a while, or bring a paused one back."""
        if (view := self.deployment) is None:
            return
        if view.state is DeploymentState.PAUSED:
            work = partial(self.workbench.serving.resume, view.name)
            self._do("pause", work, f"{view.name} comes back")
            return
        work = partial(self.workbench.serving.pause, view.name)
        told = f"Its memory goes to others; requests to {view.url} fail until P brings it back."
        then = partial(self._do, "pause", work, f"{view.name} is paused")
        self._confirm(f"Pause {view.name}?", told, then)

    def action_remove_deployment(self) -> None:
        """Forget a stopped one."""
        if (view := self.deployment) is None:
            return
        work = partial(self.workbench.serving.remove, view.name)
        then = partial(self._do, "remove", work, f"{view.name} is forgotten")
        told = "Its address and key are forgotten; the model stays in the registry."
        self._confirm(f"Forget {view.name}?", told, then)

    # -- memory -----------------------------------------------------------------------------------

    def action_sleep_deployment(self) -> None:
        """Unload it until the next request, or load it again."""
        if (view := self.deployment) is None:
            return
        serving = self.workbench.serving
        if view.state is DeploymentState.ASLEEP:
            self._do("sleep", partial(serving.wake, view.name), f"{view.name} is awake")
        else:
            told = f"{view.name} sleeps; the next request wakes it"
            self._do("sleep", partial(serving.sleep, view.name), told)

    # -- versions ---------------------------------------------------------------------------------

    def action_switch_deployment(self) -> None:
        """Another version: started beside, checked, switched; no request fails."""
        if (view := self.deployment) is None:
            return

        def named(ref: str) -> None:
            work = partial(self.workbench.serving.switch, view.name, ref)
            self.say(f"{ref} starts beside what {view.name} serves")
            self._do("switch", work, f"{view.name} serves {ref} now")

        hint = "It is started beside, checked and switched to; no request fails, b goes back"
        self.ask_line(f"Which version shall {view.name} serve?", hint, named, view.ref)

    def action_roll_back(self) -> None:
        """The version before, and stay with it."""
        if (view := self.deployment) is None:
            return
        if not view.previous:
            self.say(f"{view.name} has served one version only")
            return
        before = view.previous[0].name
        work = partial(self.workbench.serving.rollback, view.name)
        then = partial(self._do, "rollback", work, f"{view.name} serves {before} again")
        told = f"It serves {before} again and stays with it (pinned)."
        self._confirm(f"Roll {view.name} back?", told, then)

    def action_pin_deployment(self) -> None:
        """Stay with this version whatever is promoted, or follow the stage again."""
        if (view := self.deployment) is None:
            return
        told = f"{view.name} follows {view.ref} again"
        if not view.pinned:
            told = f"{view.name} stays with this version, whatever is promoted; p unpins it"
        work = partial(self.workbench.serving.pin, view.name, pinned=not view.pinned)
        self._do("pin", work, told)

    def action_load_adapter(self) -> None:
        """Load an adapter into a running deployment, or take one out."""
        if (view := self.deployment) is None:
            return
        serving = self.workbench.serving

        def named(text: str) -> None:
            label, _, ref = text.partition("=")
            if text.startswith("-"):
                work = partial(serving.unload_adapter, view.name, text[1:])
                self._do("adapter", work, f"{text[1:]} is taken out of {view.name}")
            elif label and ref:
                work = partial(serving.load_adapter, view.name, label, ref)
                self._do("adapter", work, f"{view.name} answers as {label} too")
            else:
                self.say(f"{text}: write NAME=REF, or -NAME to take one out")

        some = f" Loaded: {', '.join(view.adapters)}." if view.adapters else ""
        hint = f"NAME=REF loads (vLLM; llama.cpp takes adapters at its start), -NAME unloads.{some}"
        self.ask_line(f"Adapter for {view.name}", hint, named)

    # -- use --------------------------------------------------------------------------------------

    def action_chat_deployment(self) -> None:
        """Chat with it."""
        if (view := self.deployment) is not None:
            self.chat_with([view.name])

    def action_show_curl(self) -> None:
        """A request that can be pasted into a shell."""
        if (view := self.deployment) is not None:
            self.app.push_screen(
                CommandDialog(curl_line(view), self.workbench.paths, f"Ask {view.name}")
            )
