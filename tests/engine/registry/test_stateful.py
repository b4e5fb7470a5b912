"""Whatever happens in whatever order, the invariants of docs/registry.md hold."""

from __future__ import annotations

import random
import shutil
import sqlite3
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from engine.api.artifacts import Artifacts
from engine.errors import ModelOpsError
from engine.paths import StatePaths
from engine.registry import index
from engine.registry.log import EMPTY, read_log, writers
from tests.engine.registry.conftest import make_folder

STAGES = st.sampled_from(["dev", "staging", "prod"])
NAMES = st.sampled_from(["bot", "cat"])
MACHINES = st.integers(0, 1)


class TwoMachines(RuleBasedStateMachine):
    """Two machines with one remote: publish, promote, delete, collect, push, pull, in any order."""

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="registry-"))
        self.machines = [Artifacts(StatePaths(self.root / str(n))) for n in range(2)]
        first, second = self.machines
        first.add(self.source(0), name="bot", artifact_type="model")
        first.remote_add("origin", str(self.root / "remote"))
        first.push()
        second.clone(str(self.root / "remote"))
        first.add_key(second.device()["public"], "device", "second")
        first.push()
        second.pull()
        self.seen = 0

    def source(self, text: int) -> Path:
        return make_folder(self.root / f"source-{text}", str(text))

    @rule(n=MACHINES, name=NAMES, text=st.integers(0, 3))
    def publish(self, n: int, name: str, text: int) -> None:
        self.machines[n].add(self.source(text), name=name, artifact_type="model")

    @rule(n=MACHINES, name=NAMES, stage=STAGES, pick=st.integers(0, 9))
    def promote(self, n: int, name: str, stage: str, pick: int) -> None:
        machine = self.machines[n]
        found = machine.list(name=name)
        if not found:
            return
        view = found[pick % len(found)]
        try:
            machine.promote(view.id, stage)
            assert stage != "prod"
            assert machine.resolve(f"{name}@{stage}").id == view.id
        except ModelOpsError:
            assert stage == "prod" or view.yanked or view.partial

    @rule(n=MACHINES, pick=st.integers(0, 9))
    def delete(self, n: int, pick: int) -> None:
        machine = self.machines[n]
        found = machine.list()
        if found:
            view = found[pick % len(found)]
            try:
                machine.delete(view.id)
            except ModelOpsError:
                assert view.stages

    @rule(n=MACHINES)
    def collect(self, n: int) -> None:
        self.machines[n].gc(dry_run=False, grace_s=0)

    @rule(n=MACHINES)
    def push(self, n: int) -> None:
        machine = self.machines[n]
        if any(view.partial for view in machine.list(include_runs=True)):
            machine.pull()
        machine.push()
        again = machine.push()
        assert (again.events, again.blobs) == (0, 0)

    @rule(n=MACHINES)
    def pull(self, n: int) -> None:
        self.machines[n].pull()
        version = self.machines[n].sync_status().remote_checkpoint
        assert version >= self.seen
        self.seen = version

    @rule(n=MACHINES)
    def lose_the_index(self, n: int) -> None:
        registry = self.machines[n].registry
        before = index.dump(registry.db())
        registry.rebuild_index()
        assert index.dump(registry.db()) == before

    @invariant()
    def sound(self) -> None:
        for machine in getattr(self, "machines", ()):
            report = machine.fsck()
            assert report.ok, report.faults

    def teardown(self) -> None:
        if not hasattr(self, "machines"):
            return
        for _ in range(2):
            for machine in self.machines:
                machine.pull()
                machine.push()
        for machine in self.machines:
            machine.pull()
            assert machine.fsck(deep=True).ok
        states = [index.dump(machine.registry.db()) for machine in self.machines]
        assert states[0] == states[1]
        for machine in self.machines:
            machine.registry.close()
        shutil.rmtree(self.root)


TestTwoMachines = TwoMachines.TestCase
TestTwoMachines.settings = settings(
    max_examples=4,
    stateful_step_count=10,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_fold_is_the_same_in_any_order(seed: int) -> None:
    """Events may arrive in any order that keeps each writer's own; the state is the same."""
    world = _world()
    registry = world.registry
    trust = registry.trust
    wanted = index.dump(registry.db())
    queues = {
        writer: list(read_log(registry.layout, trust, writer, EMPTY))
        for writer in writers(registry.layout)
    }
    shuffler = random.Random(seed)
    path = Path(tempfile.mkdtemp()) / "index.db"
    index.make_tables(path)
    db = sqlite3.connect(path, isolation_level=None)
    db.row_factory = sqlite3.Row
    while any(queues.values()):
        writer = shuffler.choice([w for w, queue in queues.items() if queue])
        count = shuffler.randint(1, 3)
        batch, queues[writer] = queues[writer][:count], queues[writer][count:]
        registry.index.add(db, trust, batch, refold=False)
    assert index.dump(db) == wanted
    db.close()
    shutil.rmtree(path.parent)


_WORLD: list[Artifacts] = []


def _world() -> Artifacts:
    """Three writers with conflicting versions and stages, merged; made once."""
    if _WORLD:
        return _WORLD[0]
    root = Path(tempfile.mkdtemp(prefix="registry-fold-"))
    first = Artifacts(StatePaths(root / "0"))
    first.add(make_folder(root / "s"), name="bot", artifact_type="model")
    first.remote_add("origin", str(root / "remote"))
    first.push()
    others = []
    for n in (1, 2):
        other = Artifacts(StatePaths(root / str(n)))
        other.clone(str(root / "remote"))
        first.add_key(other.device()["public"], "device", str(n))
        others.append(other)
    first.push()
    everyone = [first, *others]
    for other in others:
        other.pull()
    for n, machine in enumerate(everyone):
        machine.add(make_folder(root / f"s{n}", str(n)), name="bot", artifact_type="model")
        machine.promote("bot@2", "dev")
        machine.tag("bot@2", "best")
        machine.promote("bot@1", "staging")
    for machine in everyone:
        machine.pull()
        machine.push()
    first.pull()
    _WORLD.append(first)
    return first
