"""The one registry of actions: what can be done, with which keys, and where.

Bindings, key hints, the palette, the help screens and docs/keys.md all come from here. What an
action *does* stands in the screen or widget that has the method ``action_<call>``; what it asks of
the engine stands in ``engine/api``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from textual.binding import Binding, BindingType

#: Keys that terminals, shells and multiplexers need for themselves.
FORBIDDEN_KEYS = frozenset(
    {"ctrl+a", "ctrl+b", "ctrl+h", "ctrl+i", "ctrl+j", "ctrl+m", "ctrl+z"}
    | {f"alt+{digit}" for digit in range(10)}
)


@dataclass(frozen=True)
class Action:
    """One thing a person can do."""

    id: str
    keys: str
    """Keys as Textual names them, separated by commas."""
    description: str
    where: str
    """``everywhere``, a screen's name, or a widget: ``list``, ``text``, ``log``."""
    call: str = ""
    """The Textual action, where it is not the id with underscores."""
    label: str = ""
    """The word in the key hints; without one the key is not hinted at."""
    palette: bool = True
    priority: bool = False

    @property
    def method(self) -> str:
        """The Textual action string."""
        if self.call:
            return self.call
        name = self.id.replace("-", "_")
        # the app binds what works everywhere; the screen that is shown has the method
        return f"screen.{name}" if self.where == "everywhere" else name


_SCREENS = (
    ("jobs", "Jobs: what runs, what waits and why"),
    ("recipes", "Recipes: the library, forms, checks"),
    ("data", "Data: datasets, reports, loss masks, SQL"),
    ("registry", "Registry: artifacts, lineage, stages"),
    ("ask", "Ask: questions to your documents"),
    ("chat", "Chat: one model or two side by side"),
    ("serve", "Serve: deployments and their health"),
    ("system", "System: devices, engine, disk, settings, doctor"),
)

ACTIONS: tuple[Action, ...] = (
    # everywhere
    *(
        Action(f"show-{name}", str(n), f"Show {text}", "everywhere", f"app.show('{name}')")
        for n, (name, text) in enumerate(_SCREENS, start=1)
    ),
    Action(
        "help", "question_mark,f1", "Help for the focused thing", "everywhere", "app.help", "help"
    ),
    Action(
        "palette",
        "ctrl+p,colon",
        "Palette: every action and every id",
        "everywhere",
        "app.palette",
        "palette",
        palette=False,
    ),
    Action("show-command", "y", "Show the command that does this", "everywhere", label="command"),
    Action("zoom", "z", "Give the focused part the whole screen, or give it back", "everywhere"),
    Action("next-theme", "T", "Next theme", "everywhere", "app.next_theme"),
    Action("start-engine", "E", "Start the engine", "everywhere", "app.start_engine"),
    Action("back", "q", "Back; out of the program on the Jobs screen", "everywhere", "app.go_back"),
    Action("escape", "escape", "Out: clears the filter first", "everywhere", palette=False),
    Action(
        "quit",
        "ctrl+q",
        "Quit; jobs go on",
        "everywhere",
        "app.quit",
        "quit",
        priority=True,
    ),
    # lists
    Action("cursor-down", "j,down", "Next row", "list", palette=False),
    Action("cursor-up", "k,up", "Previous row", "list", palette=False),
    Action("cursor-first", "g,home", "First row", "list", palette=False),
    Action("cursor-last", "G,end", "Last row", "list", palette=False),
    Action("half-down", "ctrl+d,pagedown", "Half a page down", "list", palette=False),
    Action("half-up", "ctrl+u,pageup", "Half a page up", "list", palette=False),
    Action("choose", "enter", "Into the chosen row", "list", label="open", palette=False),
    Action("mark", "space", "Select or unselect the row", "list"),
    Action("sort", "s", "Sort by the next column; S turns the order", "list"),
    Action("sort-reverse", "S", "Turn the order of the sort", "list"),
    Action(
        "filter", "slash", "Filter the list, search in the text", "list", "screen.filter", "filter"
    ),
    Action("reload", "ctrl+r", "Read everything again", "list", "screen.reload"),
    # texts
    Action("scroll-line-down", "j,down", "One line down", "text", palette=False),
    Action("scroll-line-up", "k,up", "One line up", "text", palette=False),
    Action("scroll-line-left", "h,left", "To the left", "text", palette=False),
    Action("scroll-line-right", "l,right", "To the right", "text", palette=False),
    Action("scroll-top", "g,home", "To the beginning", "text", palette=False),
    Action("scroll-bottom", "G,end", "To the end", "text", palette=False),
    Action("scroll-half-down", "ctrl+d,pagedown", "Half a page down", "text", palette=False),
    Action("scroll-half-up", "ctrl+u,pageup", "Half a page up", "text", palette=False),
    Action(
        "search", "slash", "Search in the text", "text", "screen.filter", "search", palette=False
    ),
    Action("find-next", "n", "Next match", "text", palette=False),
    Action("find-previous", "N", "Previous match", "text", palette=False),
    Action("wrap", "w", "Wrap long lines, or stop wrapping", "text"),
    Action("follow", "f", "Follow the end of the log", "log", label="follow"),
    # panes of a screen with details
    Action("next-pane", "tab", "Next pane of the details", "panes", label="pane", palette=False),
    Action("previous-pane", "shift+tab", "Previous pane", "panes", palette=False),
    # jobs
    Action(
        "start-recipe",
        "r",
        "Start a recipe from the library, or run a job again",
        "jobs",
        label="run",
    ),
    Action("new-job", "R", "Start a recipe from the library", "jobs"),
    Action("pause-job", "p", "Pause the job, or let a paused one go on", "jobs", label="pause"),
    Action("cancel-job", "x", "Cancel the job (a second time: at once)", "jobs", label="cancel"),
    Action("delete-job", "d", "Delete an ended job and its files", "jobs"),
    Action("raise-job", "plus", "Move a waiting job forward", "jobs"),
    Action("lower-job", "minus", "Move a waiting job back", "jobs"),
    Action("open-path", "o", "Show where the files are", "jobs"),
    Action("compare-jobs", "c", "Compare the two selected runs", "jobs"),
    Action("active-only", "a", "Only jobs that have not ended, or all", "jobs"),
    # recipes
    Action("run-recipe", "r", "Run this recipe", "recipes", label="run"),
    Action("edit-form", "i", "Fill in the recipe's form", "recipes", label="form"),
    Action("check-recipe", "c", "Check it: mistakes, data, memory, time", "recipes", label="check"),
    Action("edit-recipe", "e", "Open it in $EDITOR", "recipes"),
    Action("copy-recipe", "C", "Copy it to my own recipes", "recipes"),
    Action("new-recipe", "a", "Begin a new recipe of a kind", "recipes", label="new"),
    Action("import-recipe", "I", "Translate a YAML of Axolotl, LLaMA-Factory, TRL ...", "recipes"),
    # a recipe's form
    Action(
        "leave-form",
        "escape",
        "Out of the field, then out of the form",
        "form",
        "escape",
        palette=False,
    ),
    Action("unset-value", "u", "Take the value out: the default holds", "form", label="default"),
    Action("next-mistake", "n", "To the next key with a mistake", "form", label="mistake"),
    Action("add-variable", "a", "Add a variable ([vars])", "form"),
    Action("vary-value", "v", "Try several values of this key: a sweep ([matrix])", "form"),
    Action("save-recipe", "ctrl+s", "Save as TOML, comments kept", "form", label="save"),
    Action("run-form", "r", "Run it as it stands", "form", label="run"),
    # data
    Action("import-data", "i", "Import a file as a dataset", "data", label="import"),
    Action("check-data", "c", "The data report: what training would see", "data", label="report"),
    Action("loss-mask", "m", "Which tokens the loss sees, row by row", "data", label="mask"),
    Action("next-row", "greater_than_sign", "Next page of rows, next row of the mask", "data"),
    Action("previous-row", "less_than_sign", "The page or the row before", "data"),
    Action("choose-version", "v", "Look at another version, by number, tag or date", "data"),
    Action("diff-data", "C", "What changed since another version", "data", label="changes"),
    Action("restore-data", "u", "Bring an older version back as the newest", "data"),
    Action("export-data", "e", "Write this version to a file", "data"),
    Action("remove-data", "d", "Remove the dataset with all its versions", "data"),
    Action("sql", "Q", "Ask in SQL", "data"),
    Action("tag-data", "t", "Name this version, or take a name away", "data"),
    Action("vacuum-data", "V", "Free what only old versions need", "data"),
    # registry
    Action(
        "promote", "p", "Promote to the next stage, through its gates", "registry", label="promote"
    ),
    Action("verify", "v", "Verify every byte and signature", "registry", label="verify"),
    Action("compare", "c", "Compare the two selected artifacts", "registry", label="compare"),
    Action("yank", "d", "Yank: keep it, but warn everyone", "registry"),
    Action("next-type", "t", "Next artifact type", "registry"),
    Action("show-hidden", "H", "Show the outputs of steps too", "registry"),
    Action("serve-artifact", "r", "Serve it behind an OpenAI API", "registry", label="serve"),
    Action("chat-artifact", "o", "Chat with it; with an adapter, beside its base", "registry"),
    Action("push", "greater_than_sign", "Push to the remote", "registry"),
    Action("pull", "less_than_sign", "Pull from the remote", "registry"),
    # ask
    Action("ask-question", "i", "Ask a question", "ask", label="ask"),
    Action("answer-model", "m", "Choose who answers", "ask", label="model"),
    Action("new-talk", "c", "Begin a new conversation", "ask", label="new"),
    Action("sync-index", "u", "Bring the index up to date with its folder", "ask", label="sync"),
    Action("rebuild-index", "U", "Build the index anew beside the old one, then switch", "ask"),
    Action("new-index", "a", "Index another folder", "ask"),
    Action("publish-index", "p", "Sign it as an artifact of the registry", "ask"),
    Action("remove-index", "d", "Remove the index", "ask"),
    Action("file-chunks", "o", "The chunks of a file, their offsets and words", "ask"),
    Action("measure-index", "M", "Measure retrieval on a folder of questions", "ask"),
    Action("ask-filter", "F", "Ask only some documents: by path, tag, day", "ask"),
    # chat
    Action("write", "i", "Write a message", "chat", label="write"),
    Action("second-model", "m", "Choose the models", "chat", label="models"),
    Action("sampling", "s", "Temperature and the other sampling settings", "chat"),
    Action("stop-answer", "x", "Stop the answer", "chat", label="stop"),
    Action("system-prompt", "p", "The system prompt", "chat", label="system"),
    Action("keep-answer", "S", "Keep the conversation as a row of a dataset", "chat", label="keep"),
    Action("prefer-left", "a", "The left answer was better: keep the pair", "chat"),
    Action("prefer-right", "b", "The right answer was better: keep the pair", "chat"),
    Action("add-kept", "W", "Add the kept rows to their datasets", "chat"),
    Action("kept-datasets", "D", "Which datasets get the kept rows", "chat"),
    Action("new-chat", "c", "Begin again", "chat", label="new"),
    Action("show-prompt", "P", "The exact prompt as sent", "chat"),
    # serve
    Action(
        "start-deployment", "r", "Start a stopped deployment, or a new one", "serve", label="start"
    ),
    Action("new-deployment", "R", "Start a new deployment", "serve"),
    Action("roll-back", "b", "Serve the version before, and stay with it", "serve"),
    Action("remove-deployment", "d", "Forget a stopped deployment", "serve"),
    Action("stop-deployment", "x", "Stop the deployment", "serve", label="stop"),
    Action("show-curl", "c", "A curl line that asks it", "serve", label="curl"),
    Action("chat-deployment", "o", "Chat with it", "serve", label="chat"),
    Action("restart-deployment", "e", "Restart it at the same address", "serve"),
    Action("switch-deployment", "v", "Serve another version; no request fails", "serve"),
    Action("pin-deployment", "p", "Stay with this version, or follow the stage again", "serve"),
    Action("sleep-deployment", "Z", "Unload it until the next request, or load it", "serve"),
    Action("pause-deployment", "P", "Give its memory to others, or bring it back", "serve"),
    Action("load-adapter", "A", "Load or take out an adapter", "serve"),
    # system
    Action("stop-engine", "x", "Stop the engine; running jobs go on", "system"),
    Action(
        "restart-engine", "R", "Replace the engine; running jobs go on", "system", label="restart"
    ),
    Action("free-space", "f", "Free what nothing refers to any more", "system", label="free"),
    Action("run-doctor", "D", "Look at everything that jobs depend on", "system", label="doctor"),
    Action("edit-settings", "e", "Open the settings in $EDITOR", "system"),
    Action("install-backend", "i", "Make the environment of a backend", "system"),
    Action("remove-backend", "d", "Remove the environment of a backend", "system"),
)

PLACES = {
    "everywhere": "Everywhere",
    "list": "In a list",
    "text": "In a text",
    "log": "In a log",
    "panes": "On a screen with details",
    "form": "In a recipe's form",
    **{name: f"On the {name.capitalize()} screen" for name, _ in _SCREENS},
}

SCREEN_NAMES = tuple(name for name, _ in _SCREENS)


def bindings(where: str) -> list[BindingType]:
    """Textual's bindings for the actions of one place, by id so that users can remap them."""
    from textual.binding import Binding

    return [_binding(action, Binding) for action in ACTIONS if action.where == where]


def _binding(action: Action, kind: type[Binding]) -> Binding:
    return kind(
        action.keys,
        action.method,
        action.label or action.description,
        show=bool(action.label),
        id=action.id,
        tooltip=action.description,
        priority=action.priority,
    )


def keys_document(place_filter: str | None = None) -> str:
    """docs/keys.md: every key, by place."""
    lines = [
        "# Keys",
        "",
        "Made from `screens/actions.py` by `python -m screens.actions`; a test keeps it current.",
        "Change a key by its id in `config.toml`:",
        "",
        "```toml",
        "[keys]",
        'cancel-job = "X"',
        "```",
        "",
        "Letters never fire while you write in a field.",
    ]
    for place, title in PLACES.items():
        actions = [a for a in ACTIONS if a.where == place]
        if not actions or place_filter not in (None, place):
            continue
        lines += ["", f"## {title}", "", "| keys | what it does | id |", "|---|---|---|"]
        lines += [
            f"| {_keys_cell(action)} | {action.description} | `{action.id}` |" for action in actions
        ]
    return "\n".join(lines) + "\n"


def _keys_cell(action: Action) -> str:
    return " ".join(f"`{shown(key)}`" for key in action.keys.split(","))


_SHOWN = {
    "question_mark": "?",
    "colon": ":",
    "slash": "/",
    "plus": "+",
    "minus": "-",
    "greater_than_sign": ">",
    "less_than_sign": "<",
    "escape": "esc",
    "pagedown": "pgdn",
    "pageup": "pgup",
}


def shown(key: str) -> str:
    """A key as it stands on the keyboard."""
    return _SHOWN.get(key, key)


if __name__ == "__main__":
    import sys

    sys.stdout.write(keys_document())
