"""The Jobs screen: the list over the details of the chosen job, kept current by the bridge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from textual.app import ComposeResult
from textual.widget import Widget

from engine.errors import ModelOpsError
from engine.types.jobs import ACTIVE_STATES, ENDED_STATES, JobState, JobView
from screens.actions import bindings
from screens.frame import WorkScreen
from screens.jobs import details
from screens.jobs.rows import COLUMNS, job_row
from screens.jobs.series import JobSeries
from screens.messages import JobChanged, JobEvents, JobsChanged
from screens.prose import paragraph
from screens.text import UNICODE, Line
from screens.widgets.paged_table import PagedTable
from screens.widgets.pane_deck import Pane, PaneDeck
from screens.widgets.text_pane import TextPane

if TYPE_CHECKING:
    from engine.types.compared import JobsCompared
    from screens.widgets.log_view import LogView

_PANES: tuple[tuple[str, str, Callable[[details.JobDetail, int], list[Line]]], ...] = (
    ("overview", "Overview", details.overview),
    ("chart", "Chart", details.chart),
    ("recipe", "Recipe", details.recipe),
    ("artifacts", "Artifacts", details.artifacts),
    ("report", "Report", details.report),
    ("samples", "Samples", details.samples),
    ("history", "History", details.history),
)
#: Seconds between updates of what only the clock changes (running for, age).
CLOCK_EVERY = 5.0


class JobsScreen(WorkScreen):
    """Holds what the bridge told it; nothing of it is needed to reopen."""

    NAME = "jobs"
    BINDINGS = [*bindings("jobs"), *bindings("panes")]  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.jobs: tuple[JobView, ...] = ()
        self.more = False
        self.detail = details.JobDetail()
        self._loaded = False
        self._read_recipe_of = ""

    def compose_body(self) -> ComposeResult:
        yield PagedTable(COLUMNS, id="list")
        panes = [Pane(name, title, partial(TextPane, id=name)) for name, title, _ in _PANES]
        panes.insert(2, Pane("log", "Log", _log_view))
        yield PaneDeck(panes, id="detail")

    def on_mount(self) -> None:
        self.work_app.bridge.jobs_target = self
        self.work_app.bridge.refresh()
        self._clock = self.set_interval(CLOCK_EVERY, self._tick)

    def on_screen_suspend(self) -> None:
        self._clock.pause()
        if self.work_app.current_mode != self.NAME:
            self.work_app.bridge.jobs_target = None

    def on_screen_resume(self) -> None:
        self.work_app.bridge.jobs_target = self
        self.work_app.bridge.refresh()
        self._clock.resume()

    @property
    def table(self) -> PagedTable:
        return self.query_one("#list", PagedTable)

    @property
    def deck(self) -> PaneDeck:
        return self.query_one(PaneDeck)

    # -- what the bridge tells --------------------------------------------------------------------

    def on_jobs_changed(self, event: JobsChanged) -> None:
        self.jobs, self.more = event.jobs, event.more
        self._loaded = True
        self._show_list()

    def _show_list(self) -> None:
        now = self.work_app.clock()
        query = self.work_app.bridge.query
        filtered = bool(query.text) or query.states is not None
        nothing = self._loaded and not self.jobs and not filtered
        self.set_class(nothing, "empty")
        if nothing:
            self.show_empty(_empty_lines)
        self.table.set_rows([job_row(job, now, UNICODE) for job in self.jobs])
        if self.work_app.job_to_show and self.table.go_to(self.work_app.job_to_show):
            self.work_app.job_to_show = ""
        self._show_crumbs()

    def on_job_changed(self, event: JobChanged) -> None:
        if self.detail.job is None or event.job_id != self.detail.job.id:
            return
        if event.job is None:
            self.detail = details.JobDetail()
        else:
            self.detail = replace(
                self.detail, job=event.job, steps=event.steps, attempts=event.attempts
            )
        self._show_pane()

    def on_job_events(self, event: JobEvents) -> None:
        if self.detail.job is None or event.job_id != self.detail.job.id:
            return
        self.detail.series.add(event.events)
        self._show_pane()

    def _tick(self) -> None:
        if any(job.state in ACTIVE_STATES for job in self.jobs):
            self._show_list()
            self._show_pane()

    # -- the chosen job ---------------------------------------------------------------------------

    def on_paged_table_moved(self, event: PagedTable.Moved) -> None:
        job = event.row.item if event.row is not None else None
        before = self.detail.job
        if job is not None and before is not None and job.id == before.id:
            return
        self.detail = details.JobDetail(job=job, series=JobSeries())
        self.work_app.bridge.watch(job.id if job else None)
        self._read_recipe_of = ""
        self._show_pane()
        self._show_crumbs()

    def on_paged_table_near_end(self) -> None:
        bridge = self.work_app.bridge
        if self.more and len(self.jobs) >= bridge.query.limit:
            bridge.ask(limit=bridge.query.limit + 500)

    def on_paged_table_chosen(self) -> None:
        self.deck.widget.focus()

    def action_next_pane(self) -> None:
        self.deck.step(1)

    def action_previous_pane(self) -> None:
        self.deck.step(-1)

    def on_pane_deck_shown(self, event: PaneDeck.Shown) -> None:
        # a fresh pane has no size before its first layout
        self.call_after_refresh(self._show_pane)
        self._show_crumbs()

    def _show_pane(self) -> None:
        deck = self.deck
        pane: Widget = deck.widget
        job = self.detail.job
        self.detail.now = self.work_app.clock()
        self.detail.ascii_only = self.work_app.ascii_only
        if deck.current == "log":
            paths = self.workbench.paths
            cast("LogView", pane).open(paths.job_log(job.id) if job else None)
            return
        if not isinstance(pane, TextPane):
            return
        if deck.current == "recipe" and job is not None and self._read_recipe_of != job.id:
            self._read_recipe_of = job.id
            self.in_thread("recipe", partial(self._read_recipe, job.id), self._recipe_read)
        build = next(b for name, _, b in _PANES if name == deck.current)
        detail = replace(self.detail, height=max(8, pane.size.height))
        pane.show(lambda width: build(detail, width))

    def _read_recipe(self, job_id: str) -> tuple[str, str, str]:
        jobs = self.workbench.jobs
        try:
            text = jobs.recipe_path(job_id).read_text(encoding="utf-8", errors="replace")
            return job_id, text, details.plan_text(jobs.plan(job_id))
        except OSError:
            return job_id, "", ""

    def _recipe_read(self, found: tuple[str, str, str]) -> None:
        job_id, text, plan = found
        if self.detail.job is not None and self.detail.job.id == job_id:
            self.detail.recipe, self.detail.plan = text, plan
            self._show_pane()

    def _show_crumbs(self) -> None:
        query = self.work_app.bridge.query
        job = self.detail.job
        active = sum(j.state in ACTIVE_STATES for j in self.jobs)
        count = f"{len(self.jobs)}{'+' if self.more else ''}"
        shown = f"Jobs ({count}, {active} active)" if self._loaded else "Jobs"
        self.top_bar.set_crumbs(
            shown,
            "active only" if query.states else "",
            f"/{query.text}" if query.text else "",
            job.name if job else "",
            self.deck.current.capitalize() if job else "",
        )

    # -- actions ----------------------------------------------------------------------------------

    def apply_filter(self, text: str) -> None:
        self.work_app.bridge.ask(text=text)

    def action_reload(self) -> None:
        self.work_app.bridge.refresh()

    def action_active_only(self) -> None:
        states = None if self.work_app.bridge.query.states else frozenset(ACTIVE_STATES)
        self.work_app.bridge.ask(states=states)

    def action_start_recipe(self) -> None:
        """Retry the chosen job where it failed or was cancelled; else start one of the library."""
        job = self.detail.job
        if job is not None and job.state in (JobState.FAILED, JobState.CANCELLED):
            self._ask_engine([job], self.workbench.jobs.retry, "queued again")
        elif job is not None and job.state is JobState.PAUSED:
            self._ask_engine([job], self.workbench.jobs.resume, "goes on")
        else:
            self.action_new_job()

    def action_new_job(self) -> None:
        from screens.recipe_picker import pick_and_run

        pick_and_run(self, self._submitted)

    def _submitted(self, job: JobView) -> None:
        self.say(f"submitted {job.id} {job.name}")
        self.work_app.job_to_show = job.id
        self.work_app.bridge.refresh()

    def action_pause_job(self) -> None:
        jobs = self._chosen(ACTIVE_STATES, "pause")
        paused = [job for job in jobs if job.state is JobState.PAUSED]
        others = [job for job in jobs if job.state is not JobState.PAUSED]
        if paused:
            self._ask_engine(paused, self.workbench.jobs.resume, "goes on")
        if others:
            self._ask_engine(others, self.workbench.jobs.pause, "pauses: it saves a checkpoint")

    def action_cancel_job(self) -> None:
        jobs = self._chosen(ACTIVE_STATES, "cancel")
        if not jobs:
            return
        again = all(job.want in ("cancel", "cancel-now") for job in jobs)
        how = "It saves a checkpoint if it can, then ends; r can run it again from there."
        self._confirm(
            f"Cancel {_named(jobs)}?",
            how if not again else "It was asked to end already; this kills it at once.",
            jobs,
            partial(self.workbench.jobs.cancel, now=again),
            "is cancelled" if not again else "is killed",
        )

    def action_delete_job(self) -> None:
        jobs = self._chosen(ENDED_STATES, "delete")
        if jobs:
            self._confirm(
                f"Delete {_named(jobs)}?",
                "Its log, events and checkpoints go. Published artifacts stay.",
                jobs,
                self.workbench.jobs.delete,
                "deleted",
            )

    def action_raise_job(self) -> None:
        self._move(1)

    def action_lower_job(self) -> None:
        self._move(-1)

    def _move(self, by: int) -> None:
        for job in self._chosen(frozenset({JobState.QUEUED}), "move"):
            priority = job.priority + by
            self._ask_engine(
                [job],
                partial(self.workbench.jobs.set_priority, priority=priority),
                f"has priority {priority}",
            )

    def action_open_path(self) -> None:
        from screens.dialogs import TextDialog

        job = self.detail.job
        if job is not None:
            folder = self.workbench.paths.run_dir(job.id)
            self.app.push_screen(TextDialog(f"Files of {job.id}", [[(str(folder), "bold")]]))

    def action_compare_jobs(self) -> None:
        """The two selected runs side by side; the upper one, which is newer, is the second."""
        from screens.dialogs import TextDialog
        from screens.jobs.comparing import comparison_lines

        marked = [row.key for row in self.table.rows if row.key in self.table.marked]
        if len(marked) != 2:
            self.say("select two runs with space first")
            return
        newer, older = marked

        def done(found: JobsCompared) -> None:
            lines = partial(comparison_lines, found, ascii_only=self.work_app.ascii_only)
            self.app.push_screen(TextDialog(f"{older} and {newer}", lines))

        self.in_thread("compare", partial(self.workbench.jobs.compare, older, newer), done)

    def _chosen(self, states: frozenset[JobState], verb: str) -> list[JobView]:
        """The marked jobs, or the one under the cursor, of which the verb makes sense."""
        jobs = [row.item for row in self.table.chosen_rows()]
        if not jobs:
            self.say(f"there is no job to {verb}")
        fitting = [job for job in jobs if job.state in states]
        if jobs and not fitting:
            self.say(f"{jobs[0].name} is {jobs[0].state}: it can't be {_participle(verb)}")
        return fitting

    def _confirm(
        self,
        question: str,
        consequence: str,
        jobs: list[JobView],
        call: Callable[[str], Any],
        told: str,
    ) -> None:
        from screens.dialogs import ConfirmDialog

        def answered(yes: bool | None) -> None:
            if yes:
                self._ask_engine(jobs, call, told)

        self.app.push_screen(ConfirmDialog(question, consequence), answered)

    def _ask_engine(self, jobs: list[JobView], call: Callable[[str], Any], told: str) -> None:
        def work() -> list[ModelOpsError]:
            errors = []
            for job in jobs:
                try:
                    call(job.id)
                except ModelOpsError as error:
                    errors.append(error)
            return errors

        def done(errors: list[ModelOpsError]) -> None:
            self.table.marked.clear()
            for error in errors:
                self.work_app.show_error(error)
            if len(errors) < len(jobs):
                self.say(f"{_named(jobs)} {told}")
            self.work_app.bridge.refresh()

        self.in_thread("ask", work, done)

    # -- help for others --------------------------------------------------------------------------

    def command_twin(self) -> str:
        job = self.detail.job
        if job is None:
            return "modelops-tui jobs list"
        if not self.deck.has_focus_within:
            return f"modelops-tui jobs show {job.id}"
        words = {
            "log": f"log {job.id}",
            "history": f"events {job.id}",
            "recipe": f"recipe {job.id}",
        }
        return f"modelops-tui jobs {words.get(self.deck.current, f'show {job.id}')}"

    def palette_ids(self) -> list[tuple[str, str, Callable[[], None]]]:
        return [
            (f"{job.id} {job.name}", f"job, {job.state}", partial(self._go_to, job.id))
            for job in self.jobs[:500]
        ]

    def _go_to(self, job_id: str) -> None:
        self.table.go_to(job_id)
        self.table.focus()


def _named(jobs: list[JobView]) -> str:
    if len(jobs) == 1:
        return f"{jobs[0].name} ({jobs[0].id})"
    names = ", ".join(job.name for job in jobs[:3]) + (", ..." if len(jobs) > 3 else "")
    return f"{len(jobs)} jobs ({names})"


def _participle(verb: str) -> str:
    return {"cancel": "cancelled", "delete": "deleted (cancel it first)", "pause": "paused"}.get(
        verb, verb + "d"
    )


def _log_view() -> LogView:
    """Imported when a log is first looked at."""
    from screens.widgets.log_view import LogView

    return LogView(id="log")


def _empty_lines(width: int) -> list[Line]:
    return [
        [("No job was started yet.", "bold")],
        [],
        *paragraph(
            "Press r to start a recipe from the library: quickstart fine-tunes a small packaged"
            " model, measures it, quantizes it and signs it, without a network or a GPU.",
            min(width, 76),
        ),
        [],
        [
            ("r  ", "key"),
            ("start a recipe        ", ""),
            ("2  ", "key"),
            ("look at the library", ""),
        ],
        [("?  ", "key"), ("help                  ", ""), (":  ", "key"), ("everything else", "")],
        [],
        [("From a shell: modelops-tui run RECIPE.toml", "dim")],
    ]


SCREEN = JobsScreen
