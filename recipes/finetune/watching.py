"""What is seen and decided between steps: metrics, NaN, stops, checkpoints, held-out loss."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import StepFailed
from engine.worker.checkpoints import mark_complete, prune
from recipes.finetune.group import RankContext, group_of
from recipes.finetune.memory import give_back, peak_memory_bytes

if TYPE_CHECKING:
    from engine.worker.context import StepContext
    from recipes.finetune.schema import FinetuneSpec

#: Seconds of training that a kill may cost when ``save_every`` is ``auto``.
AUTO_SAVE_SECONDS = 120.0
_KEPT_CHECKPOINTS = 2
_MIN_EVENT_GAP = 0.1
_COUNTS = "watch.json"

#: What TRL logs, and what it is called in our events and metrics.
METHOD_METRICS = {
    "rewards/accuracies": "reward_accuracy",
    "rewards/margins": "reward_margin",
    "rewards/chosen": "reward_chosen",
    "rewards/rejected": "reward_rejected",
    "kl": "kl",
    "reward": "reward",
    "reward_std": "reward_std",
    "completions/mean_length": "answer_tokens",
    "accuracy": "accuracy",
}


@dataclass
class Watch:
    """Follows one training run on behalf of the trainer's callback (no torch in here).

    Args:
        ctx: where events go and stops come from.
        spec: the recipe.
        config_hash: what the checkpoints belong to.
        total: optimizer steps of the run.
        measure: held-out loss of the current weights, or None where nothing is held out.
        keep_best: writes the current weights as the best so far.
    """

    ctx: StepContext
    spec: FinetuneSpec
    config_hash: str
    total: int
    measure: Callable[[], float] | None = None
    keep_best: Callable[[], None] | None = None
    tokens_seen: int = 0
    """Tokens of all finished steps, over all attempts."""
    first_step: int = 0
    last_loss: float = math.nan
    losses: list[tuple[int, float]] = field(default_factory=list)
    eval_losses: list[tuple[int, float]] = field(default_factory=list)
    latest: dict[str, float] = field(default_factory=dict)
    """The newest further numbers of the method (rewards, accuracies), as logged."""
    held_out: dict[str, float] = field(default_factory=dict)
    """Further numbers of the newest measurement on the held-out rows, under our names."""
    stopping: bool = False
    peak: int = 0
    """Peak memory in bytes as of the last step: of all processes on a CPU, of the fullest GPU."""
    _counted: int = 0
    """Tokens of this process that are not in ``tokens_seen`` yet."""
    _began: float = 0.0
    _tokens_at_start: int = 0
    _saved_at: float = 0.0
    _told_at: float = 0.0
    _paused_s: float = 0.0

    def begin(self, step: int) -> None:
        """Training starts (or goes on) after ``step`` finished steps."""
        self.first_step = step
        self._began = self._saved_at = time.monotonic()
        self._tokens_at_start = self.tokens_seen

    def count(self, tokens: int) -> None:
        """Note that so many tokens went through the model."""
        self._counted += tokens

    def step_ended(self, step: int) -> bool:
        """All processes agree on what follows this step: whether a checkpoint is written now.

        The leader's clock and the leader's look at the stop decide; afterwards ``ctx.should_stop``
        is the same everywhere. Every process must call it.
        """
        group = group_of(self.ctx)
        group.wait_while_frozen()
        stop = isinstance(self.ctx, RankContext) and self.ctx.stop_asked
        save = stop or self.wants_save(step)
        told = group.gather([self._counted, save, stop, peak_memory_bytes(self.ctx.device)])
        self._counted = 0
        self.tokens_seen += int(sum(row[0] for row in told))
        peaks = [int(row[3]) for row in told]
        self.peak = sum(peaks) if self.ctx.device == "cpu" else max(peaks)
        if told[0][2] and isinstance(self.ctx, RankContext):
            self.ctx.agree_to_stop()
        return bool(told[0][1])

    def write(self, folder: Path) -> None:
        """Keep the counts beside a checkpoint's weights."""
        values = {
            "tokens_seen": self.tokens_seen,
            "losses": self.losses,
            "eval_losses": self.eval_losses,
        }
        (folder / _COUNTS).write_text(json.dumps(values))

    def restore(self, folder: Path) -> None:
        """Take the counts of the checkpoint that training goes on from."""
        values = json.loads((folder / _COUNTS).read_text())
        self.tokens_seen = int(values["tokens_seen"])
        self.losses = [(int(s), float(v)) for s, v in values["losses"]]
        self.eval_losses = [(int(s), float(v)) for s, v in values["eval_losses"]]
        if self.losses:
            self.last_loss = self.losses[-1][1]

    @property
    def tokens_per_s(self) -> float:
        """Mean over this attempt, without the time spent in saving and measuring."""
        seconds = time.monotonic() - self._began - self._paused_s
        return (self.tokens_seen - self._tokens_at_start) / max(seconds, 1e-6)

    def logged(self, step: int, epoch: float, logs: dict[str, float]) -> None:
        """A step's numbers are there: check them and tell them.

        Raises:
            StepFailed: the loss or the gradient is not a number.
        """
        loss, norm = float(logs["loss"]), float(logs.get("grad_norm", 0.0))
        rate = float(logs.get("learning_rate", 0.0))
        if not math.isfinite(loss) or (not math.isfinite(norm) and self.spec.train.clip):
            raise self._not_a_number(step, loss, rate)
        self.last_loss = loss
        self.losses.append((step, loss))
        self.latest.update({key: float(logs[key]) for key in METHOD_METRICS if key in logs})
        now = time.monotonic()
        if now - self._told_at < _MIN_EVENT_GAP and step < self.total:
            return
        self._told_at = now
        done_here = max(step - self.first_step, 1)
        spent = now - self._began - self._paused_s
        self.ctx.event(
            "metrics",
            done=step,
            total=self.total,
            epoch=round(epoch, 4),
            loss=loss,
            learning_rate=rate,
            grad_norm=norm if math.isfinite(norm) else None,
            tokens_per_s=round(self.tokens_per_s, 1),
            tokens_seen=self.tokens_seen,
            peak_memory_bytes=self.peak or peak_memory_bytes(self.ctx.device),
            eta_s=round((self.total - step) * spent / done_here, 1),
            **self.method_metrics(),
        )

    def method_metrics(self) -> dict[str, float]:
        """The newest numbers of the method under our names."""
        found = {METHOD_METRICS[key]: value for key, value in self.latest.items()}
        return {**found, **self.held_out}

    def _not_a_number(self, step: int, loss: float, rate: float) -> StepFailed:
        before = [value for _, value in self.losses[-5:]]
        if before and before[-1] > 3 * min(before[0], before[-1]):
            cause = "the loss rose before: the learning rate is too high"
        elif rate > 1e-3:
            cause = f"a learning rate of {rate:g} is high: that is the likely cause"
        elif self.spec.train.precision == "fp16":
            cause = "fp16 overflows easily: that is the likely cause"
        else:
            cause = "a row with extreme values or a too high learning rate is the likely cause"
        shown = ", ".join(f"{value:.3g}" for value in before) or "none"
        return StepFailed(
            f"the loss is not a number at step {step}",
            why=f"loss {loss}; the losses before it: {shown}; {cause}",
            hint="lower train.lr, raise train.warmup, or set precision = fp32; "
            "checkpoints before this step are kept",
        )

    def wants_save(self, step: int) -> bool:
        """Whether a checkpoint is due after this step: a stop, the interval, or the end."""
        if self.ctx.should_stop or step >= self.total:
            return True
        every = self.spec.train.save_every
        if every == "auto":
            return time.monotonic() - self._saved_at >= AUTO_SAVE_SECONDS
        return step % every == 0

    def saved(self, step: int, folder: Path) -> None:
        """The folder of ``step`` is written: mark it and drop what is older."""
        mark_complete(folder, self.config_hash)
        prune(self.ctx.checkpoints_dir, keep=_KEPT_CHECKPOINTS, config_hash=self.config_hash)
        self._saved_at = time.monotonic()
        self.ctx.event("checkpoint", done=step, path=str(folder))

    def save_failed(self, step: int, folder: Path, error: BaseException) -> None:
        """A checkpoint could not be written: training goes on, the older ones are kept."""
        shutil.rmtree(folder, ignore_errors=True)
        self._saved_at = time.monotonic()
        self.ctx.note(
            f"the checkpoint of step {step} could not be written ({error}); training goes on, "
            "older checkpoints are kept",
            level="warning",
        )

    def evaluate(self, step: int) -> None:
        """Measure the held-out loss when it is due, and keep the best weights where asked."""
        every = self.spec.train.eval_every
        if self.measure is None:
            return
        best_wanted = self.spec.train.keep == "best"
        due = step >= self.total or (every is not None and step % every == 0)
        if best_wanted and every is None:
            due = due or step % max(self.total // 10, 1) == 0
        if not due or any(done == step for done, _ in self.eval_losses):
            return
        give_back(self.ctx.device)
        began = time.monotonic()
        value = self.measure()
        best = min((loss for _, loss in self.eval_losses), default=math.inf)
        self.eval_losses.append((step, value))
        self.ctx.event("metrics", done=step, total=self.total, eval_loss=value)
        if best_wanted and self.keep_best is not None and value < best:
            self.keep_best()
        self.pause(time.monotonic() - began)

    def pause(self, seconds: float) -> None:
        """Leave time out of the tokens-per-second count."""
        self._paused_s += seconds
