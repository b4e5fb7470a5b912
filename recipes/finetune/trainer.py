"""The bare transformers Trainer with our loss, sampler, checkpoints and reporting."""

from __future__ import annotations

import errno
import shutil
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import OutOfSpace
from recipes.finetune.group import group_of
from recipes.finetune.loss import can_select, give_loss, selective_loss
from recipes.finetune.memory import GIVE_BACK_EVERY, give_back
from recipes.finetune.watching import Watch

if TYPE_CHECKING:
    from recipes.finetune.batches import RowDataset
    from recipes.loading import Precision


#: What libraries without an errno (safetensors, torch's zip writer) say of a full disk.
_FULL_DISK = (
    "no space left",
    "file too large",
    "file write failed",
    "failed writing file",
    "quota exceeded",
    # torch's zip writer on its way out of a failed write
    "unexpected pos",
    "iostream error",
)


def is_full_disk(error: BaseException) -> bool:
    """Whether a library's error means that the disk (or quota) is full."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    text = str(error).lower()
    return any(words in text for words in _FULL_DISK)


def saving_mixin(base: Any) -> Any:
    """A subclass of ``base`` (any transformers trainer) that survives a full disk while saving."""

    class Saving(base):  # type: ignore[misc]
        watch: Watch

        def create_model_card(self, *_: Any, **__: Any) -> None:
            """The card is ours, written from what happened."""

        def training_step(self, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
            # generating methods hand over rows without tokens; they count their answers
            self.watch.count(count_tokens(inputs))
            return super().training_step(model, inputs, *rest, **more)

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            step = self.state.global_step
            folder = Path(self.args.output_dir) / f"checkpoint-{step}"
            began = time.monotonic()
            group = group_of(self.watch.ctx)
            if group.leads:
                # a partial folder of an earlier attempt must not lend its files to this one
                shutil.rmtree(folder, ignore_errors=True)
            group.barrier()
            error = self._written(model, trial, folder)
            failed = any(row[0] for row in group.gather([error is not None]))
            if group.leads and not failed:
                error = self._marked(step, folder)
            if group.leads and (failed or error is not None):
                self._without_checkpoint(step, folder, error)
            self.watch.pause(time.monotonic() - began)

        def _written(self, model: Any, trial: Any, folder: Path) -> Exception | None:
            """Write this process's files; the error where the disk is full."""
            try:
                super()._save_checkpoint(model, trial)
                if group_of(self.watch.ctx).leads:
                    self.watch.write(folder)
            except Exception as error:
                if not is_full_disk(error):
                    raise
                if group_of(self.watch.ctx).shards:
                    # a spread model is gathered while it is written: when one process leaves
                    # that, the others can't go on either
                    raise OutOfSpace(
                        "a checkpoint of the spread model could not be written: the disk is full",
                        why=str(error),
                        hint="free space, then `modelops-tui jobs retry`: it goes on from the "
                        "last complete checkpoint",
                    ) from error
                return error
            return None

        def _marked(self, step: int, folder: Path) -> Exception | None:
            """Mark the folder as complete; the error where the disk is full."""
            try:
                self.watch.saved(step, folder)
            except Exception as error:
                if not is_full_disk(error):
                    raise
                return error
            return None

        def _without_checkpoint(self, step: int, folder: Path, error: Exception | None) -> None:
            """Training goes on without this checkpoint, unless it was to be the last thing."""
            reason = error or OSError(errno.ENOSPC, "no space left for another process's files")
            self.watch.save_failed(step, folder, reason)
            if self.watch.ctx.should_stop:
                raise OutOfSpace(
                    "the checkpoint could not be written before the stop: the disk is full",
                    why=str(reason),
                    hint="free space; the job resumes from its last complete checkpoint",
                ) from error

    return Saving


def watch_callback(watch: Watch) -> Any:
    """The trainer callback that drives ``watch``."""
    from transformers import TrainerCallback

    class WatchCallback(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            watch.begin(state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
            step = state.global_step
            control.should_save = watch.step_ended(step)
            if step % GIVE_BACK_EVERY == 0:
                give_back(watch.ctx.device)
            if watch.ctx.should_stop:
                watch.stopping = True
                control.should_training_stop = True
            return control

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                watch.logged(state.global_step, float(state.epoch or 0.0), logs)
                if not watch.stopping:
                    watch.evaluate(state.global_step)

    return WatchCallback()


def supervised_trainer(
    model: Any,
    args: Any,
    dataset: RowDataset,
    collate: Any,
    watch: Watch,
    precision: Precision,
) -> Any:
    """A ready trainer for supervised fine-tuning.

    Args:
        model: trainable model.
        args: transformers' ``TrainingArguments``.
        dataset: items for ``collate``.
        collate: ``PaddedBatch`` or ``PackedBatch``.
        watch: follows the run.
        precision: autocast type, where products are computed in less than fp32.
    """
    import torch
    from transformers import Trainer

    selecting = can_select(model) and args.label_smoothing_factor == 0 and args.n_gpu <= 1
    fused = watch.spec.train.kernels != "plain" and not watch.spec.train.compile
    processes = group_of(watch.ctx).size
    if processes > 1 and can_select(model):
        give_loss(model, fused)
    device_type = "cpu" if args.device.type == "cpu" else args.device.type
    autocast = getattr(torch, precision.autocast) if precision.autocast else None

    class SupervisedTrainer(saving_mixin(Trainer)):  # type: ignore[misc]
        def compute_loss(
            self,
            model: Any,
            inputs: dict[str, Any],
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            context = torch.autocast(device_type, dtype=autocast) if autocast else nullcontext()
            with context:
                if selecting and processes > 1:
                    # through the wrapper, which gathers weights and averages gradients
                    return model(**inputs, loss_items=num_items_in_batch) * processes
                if selecting:
                    return selective_loss(model, inputs, num_items_in_batch, fused)
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            if self.args.train_sampling_strategy != "group_by_length":
                return super()._get_train_sampler(train_dataset)
            from transformers.trainer_pt_utils import LengthGroupedSampler

            generator = torch.Generator()
            generator.manual_seed(self.args.data_seed)
            return LengthGroupedSampler(
                self.args.train_batch_size * self.args.gradient_accumulation_steps,
                lengths=dataset.lengths,
                generator=generator,
            )

    trainer = SupervisedTrainer(
        model=model,
        args=args,
        train_dataset=dataset,
        data_collator=collate,
        callbacks=[watch_callback(watch)],
    )
    trainer.watch = watch
    if selecting:
        # our loss is divided by the learned tokens of the whole optimizer step already
        trainer.model_accepts_loss_kwargs = True
        trainer.loss_is_scaled_for_ga = True
        trainer._loss_shifts_labels = True
    drop_printers(trainer)
    return trainer


def drop_printers(trainer: Any) -> None:
    """Remove the callbacks that print to the terminal: events tell what happens."""
    from transformers import PrinterCallback, ProgressCallback

    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)


def count_tokens(inputs: Any) -> int:
    """Tokens of a batch without padding, whatever its keys are called."""
    if not isinstance(inputs, dict):
        return 0
    if "row_tokens" in inputs:
        # a beginning that several rows share stands once in the batch
        return int(inputs["row_tokens"])
    total = 0
    for key, value in inputs.items():
        if not key.endswith("input_ids") or not hasattr(value, "numel"):
            continue
        mask = inputs.get(key.replace("input_ids", "attention_mask"))
        total += int(mask.sum()) if mask is not None else int(value.numel())
    return total
