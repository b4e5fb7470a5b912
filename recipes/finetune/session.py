"""What every method needs before its first step: the base, its tokenizer, the run's identity."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.data.masks import Encoder
from engine.errors import BadInput
from engine.models import ModelLocation, resolve_model
from recipes.finetune.group import Group, group_of
from recipes.loading import Precision, choose_precision, load_tokenizer, merged_folder

if TYPE_CHECKING:
    from engine.paths import StatePaths
    from engine.worker.context import StepContext
    from recipes.finetune.schema import FinetuneSpec

#: ChatML, the template most small models are trained with; used only where the recipe asks for it.
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_LIBRARIES = ("torch", "transformers", "peft", "trl")


@dataclass(frozen=True)
class Session:
    """One run's fixed surroundings."""

    ctx: StepContext
    spec: FinetuneSpec
    location: ModelLocation
    tokenizer: Any
    encoder: Encoder
    precision: Precision

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda``."""
        return self.ctx.device

    @property
    def group(self) -> Group:
        """The processes that train together; one by default."""
        return group_of(self.ctx)


def open_session(ctx: StepContext, spec: FinetuneSpec) -> Session:
    """Find the base and load its tokenizer.

    Raises:
        NotFound: there is no such model.
        BadInput: the tokenizer has no end token, or no chat template where one is needed.
    """
    ctx.phase("loading the tokenizer")
    location = whole_model(resolve_model(spec.base, ctx.paths), ctx.paths)
    tokenizer = load_tokenizer(location, paths=ctx.paths)
    prepare_tokenizer(tokenizer, spec.data.template, location.name)
    loss_on = "all" if spec.train.method == "pretrain" else spec.data.loss_on
    return Session(
        ctx,
        spec,
        location,
        tokenizer,
        Encoder(tokenizer, loss_on),
        choose_precision(spec.train.precision, ctx.device),
    )


def whole_model(location: ModelLocation, paths: StatePaths) -> ModelLocation:
    """``location``, or the merged form of an adapter: training starts from whole weights."""
    if location.base is None:
        return location
    folder = merged_folder(location, paths)
    return ModelLocation(
        "hf", folder, None, f"{location.name}-merged", license=location.root.license
    )


def prepare_tokenizer(tokenizer: Any, template: str | None, name: str) -> None:
    """Check what training needs of a tokenizer and set the template the recipe asks for.

    A template the tokenizer already has is replaced only when the recipe says so.

    Raises:
        BadInput: no end token, or an unreadable template file.
    """
    if tokenizer.eos_token_id is None:
        raise BadInput(
            f"the tokenizer of {name!r} has no end token",
            why="a model trained without one never learns to stop",
            hint="set eos_token in its tokenizer_config.json",
        )
    if template is not None:
        tokenizer.chat_template = CHATML if template == "chatml" else _template_file(template)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        set_padding(tokenizer)


def _template_file(template: str) -> str:
    from jinja2 import Environment, TemplateSyntaxError

    try:
        text = Path(template).expanduser().read_text(encoding="utf-8")
        # only parsed here; transformers renders it in its own sandbox
        Environment(autoescape=False, extensions=["jinja2.ext.loopcontrols"]).parse(  # noqa: S701
            text.replace("{% generation %}", "").replace("{% endgeneration %}", "")
        )
    except OSError as error:
        raise BadInput(
            f"data.template: {template!r} can't be read",
            why=str(error),
            hint='give "chatml" or the path of a Jinja file',
        ) from error
    except TemplateSyntaxError as error:
        raise BadInput(
            f"data.template: {template} is no valid template",
            why=f"line {error.lineno}: {error.message}",
        ) from error
    return text


def set_padding(tokenizer: Any) -> None:
    """Choose a padding token that is not the end token (the end token where there is no other)."""
    for candidate in ("<|finetune_right_pad_id|>", "<|endoftext|>", "<pad>", "[PAD]", "<unk>"):
        token_id = tokenizer.get_vocab().get(candidate)
        if token_id is not None and token_id != tokenizer.eos_token_id:
            tokenizer.pad_token = candidate
            return
    tokenizer.pad_token = tokenizer.eos_token


def config_hash(session: Session, files: list[Path], **more: Any) -> str:
    """Identity of a run for its checkpoints: recipe, data, base, libraries.

    A checkpoint of another batch size, data file or library resumes silently wrong in transformers;
    under another hash it is not resumed at all.
    """
    spec = session.spec.model_dump(mode="json", exclude={"resources"})
    if session.spec.train.distributed.processes == 1:
        # as it was before there were several: older checkpoints stay valid
        del spec["train"]["distributed"]
    root = session.location.root
    facts = {
        "spec": spec,
        "data": [file_digest(path) for path in files],
        "base": [session.location.manifest, root.manifest, root.name, str(root.path)],
        "precision": session.precision.name,
        "device": session.device,
        "versions": {name: _version(name) for name in _LIBRARIES},
        **more,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file, or of a folder's file names and sizes."""
    if path.is_dir():
        names = [f"{f.relative_to(path)}:{f.stat().st_size}" for f in sorted(path.rglob("*"))]
        return hashlib.sha256("\n".join(names).encode()).hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
