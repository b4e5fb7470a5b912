"""Using a trained reward: scoring answers with a published head, a plugin, or the built-in rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from engine.data.formats import Example
from engine.errors import BadInput, NotFound, StepFailed
from engine.models import read_json, resolve_model
from engine.plugins import extensions, names

if TYPE_CHECKING:
    from recipes.finetune.session import Session

Reward = Callable[[Sequence[str], Sequence[str]], list[float]]


def house_style(prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
    """Reward of the bundled house style: a third for each of its three line openings, in order."""
    found = []
    for text in texts:
        lines = [line.strip() for line in text.strip().splitlines()]
        hits = [
            index < len(lines) and lines[index].startswith(opening)
            for index, opening in enumerate(("Short:", "Why:", "Next:"))
        ]
        found.append(sum(hits) / 3 - max(0, len(lines) - 3) * 0.1)
    return found


BUILT_IN: dict[str, Reward] = {"house-style": house_style}


def find_reward(name: str, session: Session) -> Reward:
    """The reward called ``name``: built in, a plugin, or a published reward model.

    Raises:
        NotFound: none of these.
        BadInput: the artifact is no reward model, or was trained on another base.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    if name in names("reward"):
        return _checked(name, extensions("reward").get(name))
    return _published(name, session)


def _checked(name: str, given: Reward) -> Reward:
    """A plugin's reward whose faults are named as the plugin's."""

    def reward(prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
        try:
            values = [float(value) for value in given(prompts, texts)]
        except Exception as error:
            raise StepFailed(
                f"the reward {name!r} failed", why=f"{type(error).__name__}: {error}"
            ) from error
        if len(values) != len(texts) or not all(map(math.isfinite, values)):
            raise StepFailed(
                f"the reward {name!r} is wrong",
                why=f"{len(texts)} finite numbers were due, it gave {values[:8]}",
            )
        return values

    return reward


def _published(name: str, session: Session) -> Reward:
    registry = session.ctx.registry()
    try:
        view = registry.resolve(name)
    except NotFound as error:
        known = ", ".join(sorted({*BUILT_IN, *names("reward")}))
        raise NotFound(
            f"there is no reward {name!r}",
            why=f"known rewards: {known}; or name a reward model of the registry",
            hint='train one with method = "reward"',
        ) from error
    folder = registry.materialize(view.id)
    if not (folder / "reward.json").is_file():
        raise BadInput(f"{name!r} is no reward model", why="it has no reward.json")
    return _head_reward(folder, dict(view.parents).get("base", ""), session)


def _head_reward(folder: Any, base: str, session: Session) -> Reward:
    import torch
    from safetensors.torch import load_file

    from recipes.finetune.reward import Scale, last_hidden
    from recipes.finetune.reward_heads import make_head
    from recipes.loading import load_causal_lm

    facts = read_json(folder / "reward.json")
    state = load_file(folder / "reward.safetensors")
    scale = Scale(state.pop("mean"), state.pop("deviation"))
    head = make_head(
        str(facts["head"]), len(scale.mean), int(facts["neurons"]), int(facts["ticks"])
    )
    head.load_state_dict({key.removeprefix("head."): value for key, value in state.items()})
    head.eval()
    location = resolve_model(base or str(facts["base"]), session.ctx.paths)
    model = load_causal_lm(
        location, session.precision.compute_dtype, session.device, paths=session.ctx.paths
    )

    def reward(prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
        ids = []
        for prompt, text in zip(prompts, texts, strict=True):
            messages = (
                {"role": "user", "content": prompt},
                {"role": "assistant", "content": text},
            )
            ids.append(session.encoder.encode(Example(0, "chat", messages=messages)).ids)
        with torch.inference_mode():
            values = head(scale(last_hidden(session, model, ids, 8)))
        return [float(value) for value in values]

    return reward
