"""What a model of the registry is worth: an endpoint, or a chat with it beside its base."""

from __future__ import annotations

from engine.types.artifacts import ArtifactView
from screens.registry.promotion import named, ref
from screens.serve.starting import Starting

_MODELS = frozenset({"base", "adapter", "model", "quantized"})


class ModelUse(Starting):
    """Only for artifacts that are models."""

    def action_serve_artifact(self) -> None:
        """Start a deployment of the chosen model; by its stage, so that promotions are followed."""
        if (view := self._model("be served")) is not None:
            whole = f"{view.name}@{view.stages[0]}" if view.stages else ref(view)
            self.ask_to_serve(whole, show=True)

    def action_chat_artifact(self) -> None:
        """Chat with the chosen model; with an adapter, beside the base it was trained on."""
        if (view := self._model("chat")) is None:
            return
        bases = [parent for relation, parent in view.parents if relation == "base"]
        self.chat_with([ref(view), *(bases[:1] if view.artifact_type == "adapter" else [])])

    def _model(self, what: str) -> ArtifactView | None:
        view: ArtifactView | None = self.item
        if view is None:
            self.say("no artifact is chosen")
        elif view.artifact_type not in _MODELS:
            self.say(f"{named(view)} is no model: it can't {what}")
            view = None
        return view
