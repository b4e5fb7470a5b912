"""The errors every layer raises: what went wrong, why, and what to do next.

They are raised where the reason is known and shown by one writer (the CLI's stderr or a toast).
"""

from __future__ import annotations

from typing import ClassVar


class ModelOpsError(Exception):
    """Base of all errors that are shown to a person.

    Args:
        what: one sentence, what went wrong.
        why: the reason, where it is known.
        hint: the next command or action that helps.
    """

    #: a stable word for programs (``--json`` errors, the gateway)
    code: ClassVar[str] = "error"
    #: the CLI's exit status for this error (see ``modelops_tui.cli.output.ExitCode``)
    exit_status: ClassVar[int] = 1

    def __init__(self, what: str, why: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        return self.what if not self.why else f"{self.what}: {self.why}"

    def to_json(self) -> dict[str, str]:
        """The error as the ``--json`` writer and ``result.json`` keep it."""
        return {"code": self.code, "what": self.what, "why": self.why, "hint": self.hint}


class BadInput(ModelOpsError):
    """Something the user gave can't be used: a value, a file, a row."""

    code = "bad_input"
    exit_status = 2


class RecipeInvalid(BadInput):
    """A recipe is refused; ``diagnostics`` holds every mistake, sorted by position."""

    code = "recipe_invalid"
    exit_status = 2

    def __init__(self, what: str, diagnostics: tuple[object, ...] = (), hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.diagnostics = diagnostics


class NotFound(ModelOpsError):
    """A job, artifact, dataset, model or file that does not exist."""

    code = "not_found"
    exit_status = 3


class Outdated(BadInput):
    """What was accepted by another version of the program can't be run as it was by this one."""

    code = "outdated"


class Conflict(ModelOpsError):
    """The state changed under the request, or it can't be done in this state."""

    code = "conflict"
    exit_status = 4


class Refused(ModelOpsError):
    """A policy says no: a pickle, a hostile name, an unmet gate, an unsupported target."""

    code = "refused"
    exit_status = 5


class IntegrityError(ModelOpsError):
    """Bytes are not what was signed: tampered, truncated, or swapped."""

    code = "integrity"
    exit_status = 6


class EngineUnavailable(ModelOpsError):
    """The local engine does not run, or can't be started or reached."""

    code = "engine_unavailable"
    exit_status = 7


class OutOfSpace(ModelOpsError):
    """The disk (or the floor we keep free on it) does not allow the write."""

    code = "out_of_space"
    exit_status = 8


class DoesNotFit(ModelOpsError):
    """The job can't fit in the memory of the device, now or ever."""

    code = "does_not_fit"
    exit_status = 9


class StepFailed(ModelOpsError):
    """A recipe reports that its step failed; the engine records it and does not retry."""

    code = "step_failed"
    exit_status = 10


class MissingPart(ModelOpsError):
    """An optional library, backend or external program is not installed here."""

    code = "missing_part"
    exit_status = 11
