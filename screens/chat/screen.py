"""Chat with one model, or the same question to two side by side, streamed."""

from __future__ import annotations

import shlex
import threading
import time
from dataclasses import asdict, dataclass
from functools import partial

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.message import Message
from textual.widgets import Input

from engine.errors import ModelOpsError
from engine.types.serving import ChatMessage, ChatPiece, Sampling
from screens.actions import bindings
from screens.chat.keeping import ChatKeeping
from screens.chat.session import Conversation, sampling_of
from screens.dialogs import LineDialog, TextDialog
from screens.prose import paragraph
from screens.text import Line
from screens.widgets.text_pane import TextPane

_WRITE = "write a message; enter sends it, esc leaves the field"
#: Seconds between repaints of a streamed answer: a slow line gets 5 a second at most.
REPAINT_S = 0.2


@dataclass
class Pieces(Message):
    """What came of an answer since the last message."""

    column: int
    turn: int
    pieces: tuple[ChatPiece, ...]
    problem: str = ""
    over: bool = False


class ChatScreen(ChatKeeping):
    """The models run in a service process or a deployment; this only shows what they say."""

    NAME = "chat"
    BINDINGS = bindings("chat")
    AUTO_FOCUS = "#message"

    def __init__(self) -> None:
        super().__init__()
        self.sampling = Sampling()
        self.system = ""
        self._stops: list[threading.Event] = []

    def compose_body(self) -> ComposeResult:
        with Horizontal(id="chats"):
            yield TextPane(id="chat-0", classes="chat")
            yield TextPane(id="chat-1", classes="chat second")
        yield Input(
            id="message",
            placeholder=_WRITE,
            compact=True,
        )

    def on_mount(self) -> None:
        self.query_one("#chat-1").display = False
        self._show()
        self.look_for_kept()

    def on_screen_resume(self) -> None:
        """Another screen may have sent us here with a model, or two."""
        wanted, self.work_app.wanted_talk = self.work_app.wanted_talk, ()
        if wanted and list(wanted) != [talk.model for talk in self.talks]:
            self.call_after_refresh(self._begin, list(wanted))

    def refresh_chat(self) -> None:
        self._show()

    def first_list(self) -> TextPane:
        return self.query_one("#chat-0", TextPane)

    # -- sending ----------------------------------------------------------------------------------

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if event.input.id != "message":
            return
        event.stop()
        text = event.value.strip()
        if not text:
            return
        if not self.talks:
            self.action_second_model()
            return
        if self._busy():
            return
        event.input.value = ""
        self._stops = [threading.Event() for _ in self.talks]
        for column, talk in enumerate(self.talks):
            turns = talk.ask(text, self.system)
            self.run_worker(
                partial(self._stream, column, talk.turn, talk.model, turns, self._stops[column]),
                thread=True,
                group=f"chat-{column}",
                name=f"chat-{column}",
                exit_on_error=False,
            )
        self._show()

    def _stream(
        self,
        column: int,
        turn: int,
        model: str,
        turns: tuple[ChatMessage, ...],
        stop: threading.Event,
    ) -> None:
        pieces: list[ChatPiece] = []
        told, problem = 0.0, ""
        try:
            for piece in self.workbench.serving.chat(model, turns, self.sampling):
                pieces.append(piece)
                if stop.is_set():
                    break
                if time.monotonic() - told > REPAINT_S:
                    told = time.monotonic()
                    self.post_message(Pieces(column, turn, tuple(pieces)))
                    pieces = []
        except ImportError as error:
            problem = f"this installation can't chat: {error}"
        except ModelOpsError as error:
            problem = "\n".join(part for part in (str(error), error.hint) if part)
        self.post_message(Pieces(column, turn, tuple(pieces), problem, over=True))

    def on_pieces(self, event: Pieces) -> None:
        if event.column >= len(self.talks):
            return
        talk = self.talks[event.column]
        if talk.turn != event.turn:
            return
        for piece in event.pieces:
            talk.take(piece)
        talk.problem = event.problem or talk.problem
        if event.over:
            talk.finish()
        self._show()

    # -- actions ----------------------------------------------------------------------------------

    def action_write(self) -> None:
        self.query_one("#message").focus()

    def action_stop_answer(self) -> None:
        for stop in self._stops:
            stop.set()

    def action_new_chat(self) -> None:
        self.action_stop_answer()
        self.talks = [Conversation(talk.model) for talk in self.talks]
        self._show()

    def action_second_model(self) -> None:
        """Ask which model, or two with a space between them; they are looked up at once."""

        def chosen(text: str | None) -> None:
            names = (text or "").split()
            if len(names) > 2:
                self.say(f"{len(names)} models: at most two can answer side by side")
            elif names:
                self.in_thread("models", partial(find, names), lambda _: self._begin(names))

        def find(names: list[str]) -> None:
            for name in names:
                self.workbench.serving.find(name)

        now = " ".join(talk.model for talk in self.talks) or "smollm2-135m-instruct"
        hint = "A deployment, a name of the registry (support-bot@prod), a file; or two of them"
        self.app.push_screen(LineDialog("Model, or two models", hint, now), chosen)

    def _begin(self, models: list[str]) -> None:
        self.action_stop_answer()
        self.talks = [Conversation(model) for model in models]
        self._show()
        self.query_one("#message").focus()

    def action_system_prompt(self) -> None:
        """What is said to the models before the first message."""

        def chosen(text: str | None) -> None:
            if text is not None:
                self.system = text.strip().replace("\\n", "\n")
                self._show()

        hint = "Sent before the first message, from the next one on; \\n begins a line, empty: none"
        now = self.system.replace("\n", "\\n")
        self.app.push_screen(LineDialog("System prompt", hint, now), chosen)

    def action_sampling(self) -> None:
        """Temperature and the other settings of the next answers."""

        def chosen(text: str | None) -> None:
            if text is None:
                return
            try:
                self.sampling = sampling_of(text)
            except ValueError as error:
                self.work_app.show_error(ModelOpsError("these settings can't be used", str(error)))
            self._show()

        now = asdict(self.sampling)
        text = " ".join(f"{k}={v}" for k, v in now.items() if v is not None and k != "stop")
        self.app.push_screen(LineDialog("Sampling", "temperature 0 is greedy", text), chosen)

    def action_show_prompt(self) -> None:
        lines: list[Line] = []
        for talk in self.talks:
            lines += [[(talk.model, "head")], *paragraph(talk.prompt or "nothing was sent yet", 90)]
        self.app.push_screen(TextDialog("The exact prompt as sent", lines))

    # -- showing ----------------------------------------------------------------------------------

    def _show(self) -> None:
        first, second = self.query_one("#chat-0", TextPane), self.query_one("#chat-1", TextPane)
        second.display = len(self.talks) > 1
        if not self.talks:
            first.show(_empty_lines)
        for talk, pane in zip(self.talks, (first, second), strict=False):
            pane.show(talk.lines)
            pane.scroll_end(animate=False)
        names = " | ".join(talk.model for talk in self.talks)
        drawn = f"temperature {self.sampling.temperature:g}"
        self.top_bar.set_crumbs("Chat", names, drawn, self.kept_crumb)

    def command_twin(self) -> str:
        names = [talk.model for talk in self.talks] or ["smollm2-135m-instruct"]
        words = ["modelops-tui", "chat", names[0]]
        words += ["--beside", names[1]] if len(names) > 1 else []
        words += ["--system", self.system] if self.system else []
        plain = asdict(Sampling())
        for name, value in asdict(self.sampling).items():
            if value != plain[name] and name != "stop":
                words += [f"--{name.replace('_', '-')}", f"{value:g}"]
        return shlex.join(words)


def _empty_lines(width: int) -> list[Line]:
    return [
        [("No model was chosen yet.", "bold")],
        [],
        *paragraph(
            "Write a message, or press esc and m, to choose one: the packaged small model, a file,"
            " a deployment, or an artifact of the registry. Two names answer side by side; then"
            " a or b keeps which was better, as a row that DPO trains on.",
            min(width, 76),
        ),
    ]


SCREEN = ChatScreen
