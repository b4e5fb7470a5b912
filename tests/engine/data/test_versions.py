from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from engine.api import Workbench
from engine.data.difference import diff
from engine.data.history import export, iterate, restore, rows_page, statistics, vacuum
from engine.data.publish import publish_version
from engine.data.reading import iterate_rows
from engine.data.removal import remove
from engine.data.rows import read_rows
from engine.data.versions import Dataset, import_rows, open_dataset
from engine.errors import BadInput, Conflict, NotFound, Refused
from engine.paths import StatePaths


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return StatePaths(tmp_path / "state").ensure()


def rows_file(tmp_path: Path, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> Path:
    file = tmp_path / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def put(tmp_path: Path, paths: StatePaths, rows: list[dict[str, Any]], **options: Any) -> Dataset:
    import_rows(rows_file(tmp_path, rows), "tickets", paths, **options)
    return open_dataset("tickets", paths)


def rows_of(dataset: Dataset, version: int) -> list[dict[str, Any]]:
    return list(iterate(dataset, version))


ONE = [{"id": 1, "text": "2024-01-31"}, {"id": 2, "text": "b"}]


def test_the_first_import_is_version_1_and_types_stay(tmp_path: Path, paths: StatePaths) -> None:
    dataset = put(tmp_path, paths, ONE)
    (version,) = dataset.versions()
    assert (version.version, version.rows, version.operation) == (1, 2, "overwrite")
    assert rows_of(dataset, 1) == ONE, "a text that looks like a date stays a text"


def test_order_is_kept_over_many_batches(tmp_path: Path, paths: StatePaths) -> None:
    dataset = put(tmp_path, paths, [{"id": i} for i in range(12_000)])
    assert [r["id"] for r in rows_of(dataset, 1)] == list(range(12_000))
    page = rows_page(dataset, 1, offset=11_990, limit=5)
    assert [r["id"] for r in page.rows] == list(range(11_990, 11_995))
    assert page.total == 12_000


def test_order_is_kept_over_appends(tmp_path: Path, paths: StatePaths) -> None:
    dataset = put(tmp_path, paths, [{"id": 0}])
    for number in range(1, 6):
        put(tmp_path, paths, [{"id": number}], mode="append")
    assert [r["id"] for r in rows_of(dataset, dataset.latest())] == list(range(6))
    assert [r["id"] for r in rows_page(dataset, 6, offset=2, limit=2).rows] == [2, 3]


def test_arrow_reads_the_files_without_python(tmp_path: Path, paths: StatePaths) -> None:
    """A thread of Arrow that asks for the GIL can stop the process for ever; see `local_files`."""
    from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

    files = put(tmp_path, paths, ONE).dataset(1).filesystem
    assert isinstance(files, SubTreeFileSystem)
    assert isinstance(files.base_fs, LocalFileSystem)


def test_rows_of_a_foreign_table_with_odd_partitions(tmp_path: Path) -> None:
    import pyarrow as pa
    from deltalake import write_deltalake

    where = tmp_path / "ä table"
    odd = ["a b/c", "ü=%20", "plain"]
    rows = pa.table({"text": ["x", "y", "z"], "part": odd})
    write_deltalake(str(where), rows, partition_by=["part"])
    found = [row.values for row in read_rows(where)]
    assert sorted((r["text"], r["part"]) for r in found) == list(zip("xyz", odd, strict=True))


def test_append_merge_overwrite_and_time_travel(tmp_path: Path, paths: StatePaths) -> None:
    dataset = put(tmp_path, paths, ONE)
    put(tmp_path, paths, [{"id": 3, "text": "c", "extra": 1.5}], mode="append")
    merged = [{"id": 2, "text": "changed"}, {"id": 4, "text": "d"}]
    put(tmp_path, paths, merged, mode="merge", key=("id",))
    put(tmp_path, paths, [{"other": True}])
    assert [v.operation for v in dataset.versions()] == [
        "overwrite",
        "merge",
        "append",
        "overwrite",
    ]
    assert rows_of(dataset, 1) == ONE
    assert {r["id"]: r["text"] for r in rows_of(dataset, 3)} == {
        1: "2024-01-31", 2: "changed", 3: "c", 4: "d",
    }  # fmt: skip
    assert rows_of(dataset, 4) == [{"other": True}]


def test_importing_the_same_source_makes_no_version(tmp_path: Path, paths: StatePaths) -> None:
    put(tmp_path, paths, ONE)
    version, fresh = import_rows(tmp_path / "rows.jsonl", "tickets", paths)
    assert (version.version, fresh) == (1, False)


def test_selectors(tmp_path: Path, paths: StatePaths) -> None:
    dataset = put(tmp_path, paths, ONE)
    between = datetime.now(UTC).isoformat()
    time.sleep(0.02)
    put(tmp_path, paths, [{"id": 9}])
    dataset.tag("golden", 1)
    for selector, number in (
        (None, 2), ("latest", 2), ("v1", 1), ("1", 1), ("golden", 1), (between, 1),
        (datetime.now().date().isoformat(), 2),
    ):  # fmt: skip
        assert dataset.resolve(selector) == number, selector
    for selector in ("v7", "silver", "1999-01-01"):
        with pytest.raises(NotFound):
            dataset.resolve(selector)


@pytest.mark.parametrize("tag", ["v3", "3", "latest", "2024-01-01", "Up", "../x", ""])
def test_hostile_tags_are_refused(tmp_path: Path, paths: StatePaths, tag: str) -> None:
    with pytest.raises(BadInput):
        put(tmp_path, paths, ONE).tag(tag, 1)


@pytest.mark.parametrize("name", ["", "../up", "A", "a/b", ".hidden", "x" * 101])
def test_hostile_names_are_refused(tmp_path: Path, paths: StatePaths, name: str) -> None:
    with pytest.raises(BadInput):
        import_rows(rows_file(tmp_path, ONE), name, paths)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"a": 1}\n{"a": \n', "rows.jsonl:2"),
        ("[1, 2]\n", "not an object"),
        ('{"a": 1}\n{"a": "x"}\n', "mixes types"),
        ("", "no row"),
        ('{"a": 1}\n{}\n', "empty object"),
    ],
)
def test_broken_sources_leave_nothing_behind(
    tmp_path: Path, paths: StatePaths, text: str, what: str
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(text)
    with pytest.raises(BadInput) as caught:
        import_rows(file, "tickets", paths)
    assert what in str(caught.value)
    assert not (paths.datasets / "tickets").exists()
    with pytest.raises(NotFound):
        open_dataset("tickets", paths)


def test_a_failed_import_keeps_the_versions(tmp_path: Path, paths: StatePaths) -> None:
    dataset = put(tmp_path, paths, ONE)
    with pytest.raises(BadInput):
        put(tmp_path, paths, [{"id": 1}, {"id": 1}], mode="merge", key=("id",))
    with pytest.raises(BadInput, match="no column nope"):
        put(tmp_path, paths, [{"id": 1}], mode="merge", key=("nope",))
    assert len(dataset.versions()) == 1
    assert rows_of(dataset, 1) == ONE


def test_csv_numbers_only_where_every_value_is_one(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("n,zip,mixed,f,empty\n1,01234,2,0.5,\n2,99999,x,1,\n")
    assert list(iterate_rows(file)) == [
        {"n": 1, "zip": "01234", "mixed": "2", "f": 0.5, "empty": None},
        {"n": 2, "zip": "99999", "mixed": "x", "f": 1.0, "empty": None},
    ]
    file.write_text("a,b\n1,2,3\n")
    with pytest.raises(BadInput, match="does not have 2 fields"):
        list(iterate_rows(file))


def test_nested_rows_and_nulls_survive(tmp_path: Path, paths: StatePaths) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "hi"}], "none": None},
        {"messages": [{"role": "user", "content": "x", "name": "n"}], "none": None},
    ]
    dataset = put(tmp_path, paths, rows)
    assert rows_of(dataset, 1)[1]["messages"][0]["name"] == "n"
    columns = {c.name: c for c in statistics(dataset, 1)}
    assert columns["none"].nulls == 2
    assert columns["messages"].minimum is None


def test_diff_with_and_without_a_key(tmp_path: Path, paths: StatePaths) -> None:
    dataset = put(tmp_path, paths, [{"id": 1, "t": "a"}, {"id": 2, "t": "b"}, {"id": 3, "t": "c"}])
    put(tmp_path, paths, [{"id": 1, "t": "a"}, {"id": 2, "t": "B"}, {"id": 4, "t": "d", "n": 1}])
    plain, keyed = diff(dataset, 1, 2), diff(dataset, 1, 2, ("id",))
    assert (plain.added, plain.removed) == (2, 2)
    assert (keyed.added, keyed.removed, keyed.changed) == (1, 1, 1)
    assert keyed.columns_added == ("n",)


def test_a_diff_shows_what_changed_and_counts_repeated_keys_once(
    tmp_path: Path, paths: StatePaths
) -> None:
    old = [{"id": 1, "t": "a", "deep": {"x": [1]}}, {"id": 2, "t": "b", "deep": {"x": [2]}}]
    dataset = put(tmp_path, paths, old)
    put(tmp_path, paths, [{"id": 1, "t": "A", "deep": {"x": [1]}}] * 2, mode="append")
    put(tmp_path, paths, [{"id": 1, "t": "z", "deep": {"x": [9]}}] * 3 + old[1:])
    keyed = diff(dataset, 1, 3, ("id",))
    # one row became three with its key: one changed, two came
    assert (keyed.added, keyed.removed, keyed.changed) == (2, 0, 1)
    assert keyed.changed_rows == (
        {"key": {"id": 1}, "changes": {"t": ["a", "z"], "deep": [{"x": [1]}, {"x": [9]}]}},
    )
    (row, *_) = diff(dataset, 1, 2).added_rows
    assert row == {"id": 1, "t": "A", "deep": {"x": [1]}}, "values, not their texts"


def test_the_rows_of_a_diff_come_in_pages_that_meet(tmp_path: Path, paths: StatePaths) -> None:
    old: list[dict[str, Any]] = [{"id": n, "t": f"{n % 7}", "deep": {"x": [n]}} for n in range(40)]
    dataset = put(tmp_path, paths, old)
    new = [{**row, "t": "new"} if row["id"] % 2 else row for row in old[3:]]
    put(tmp_path, paths, [*new, *({"id": n, "t": "", "deep": None} for n in range(60, 47, -1))])
    for key in ((), ("id",)):
        whole = diff(dataset, 1, 2, key, limit=1_000)
        pages = [diff(dataset, 1, 2, key, limit=6, offset=n) for n in range(0, 36, 6)]
        for kind in ("added", "removed", "changed"):
            rows = [row for page in pages for row in getattr(page, f"{kind}_rows")]
            assert rows == list(getattr(whole, f"{kind}_rows")), (key, kind)
            assert len(rows) == getattr(whole, kind), (key, kind)
            assert len({getattr(page, kind) for page in pages}) == 1, "the figures stay"
    assert [row["id"] for row in whole.added_rows] == list(range(48, 61)), "by the key"
    with pytest.raises(BadInput):
        diff(dataset, 1, 2, offset=-1)


def test_two_versions_without_a_common_column(tmp_path: Path, paths: StatePaths) -> None:
    dataset = put(tmp_path, paths, [{"a": 1}])
    put(tmp_path, paths, [{"b": 1}, {"b": 2}])
    found = diff(dataset, 1, 2)
    assert (found.columns_added, found.columns_removed) == (("b",), ("a",))
    assert (found.added, found.removed) == (1, 0)


def test_a_changed_type_is_told_and_compared_by_its_text(tmp_path: Path, paths: StatePaths) -> None:
    dataset = put(tmp_path, paths, [{"id": 1, "n": 5}, {"id": 2, "n": 6}])
    put(tmp_path, paths, [{"id": 1, "n": "5"}, {"id": 2, "n": "six"}])
    found = diff(dataset, 1, 2, ("id",))
    assert found.types_changed == (("n", "int64", "string"),)
    assert (found.changed, found.changed_rows[0]["changes"]) == (1, {"n": ["6", "six"]})


def test_a_page_reads_only_its_row_groups(tmp_path: Path, paths: StatePaths) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from deltalake import write_deltalake

    put(tmp_path, paths, [{"id": 0, "text": "x"}])
    dataset = open_dataset("tickets", paths)
    rows = pa.table({"id": range(5_000), "text": [f"row {n} " * 20 for n in range(5_000)]})
    write_deltalake(str(dataset.table_path), rows, mode="overwrite")
    number = dataset.latest()
    (file,) = (f for f in dataset.table_path.glob("*.parquet") if f.stat().st_size > 10_000)
    pq.write_table(rows, file, row_group_size=1_000, compression="none")
    first = pq.ParquetFile(file).metadata.row_group(0).column(1)
    with file.open("r+b") as damaged:  # whoever reads the first row group fails
        damaged.seek(first.dictionary_page_offset or first.data_page_offset)
        damaged.write(b"\xff" * first.total_compressed_size)
    page = rows_page(dataset, number, 3_999, 3)
    assert [row["id"] for row in page.rows] == [3_999, 4_000, 4_001]
    assert (page.total, page.schema) == (5_000, (("id", "int64"), ("text", "string")))
    with pytest.raises(OSError):
        rows_page(dataset, number, 0, 1)


def test_statistics_count_exactly(tmp_path: Path, paths: StatePaths) -> None:
    rows = [{"id": n, "even": n % 2 == 0, "tags": ["a"] * (n % 3)} for n in range(3_000)]
    dataset = put(tmp_path, paths, rows)
    assert [column.distinct for column in statistics(dataset, 1)] == [3_000, 2, 3]


def test_a_message_is_kept_with_its_version(tmp_path: Path, paths: StatePaths) -> None:
    dataset = put(tmp_path, paths, ONE, message="the first delivery")
    assert dataset.versions()[0].message == "the first delivery"


def test_a_restored_version_is_signed_with_both_its_parents(
    tmp_path: Path, paths: StatePaths
) -> None:
    from engine.api.data import Data
    from engine.registry import Registry

    data = Data(paths)
    first, _ = data.import_file(rows_file(tmp_path, ONE), "tickets")
    second, _ = data.import_file(rows_file(tmp_path, [{"id": 9}]), "tickets")
    restored = data.restore("tickets@v1")
    assert restored.manifest
    parents = Registry.open(paths).resolve(restored.manifest).parents
    assert parents == (
        ("previous_version", second.manifest),
        ("restored_version", first.manifest),
    )
    assert data.restore("tickets@v2", publish=False).manifest is None


def test_restore_and_export(tmp_path: Path, paths: StatePaths) -> None:
    dataset = put(tmp_path, paths, ONE)
    put(tmp_path, paths, [{"id": 9, "text": "z"}])
    assert restore(dataset, 1).operation == "restore"
    assert rows_of(dataset, dataset.latest()) == ONE
    for name in ("out.jsonl", "out.csv", "out.parquet"):
        assert export(dataset, 1, tmp_path / name) == 2
        assert list(iterate_rows(tmp_path / name)) == ONE
    with pytest.raises(BadInput, match="exists"):
        export(dataset, 1, tmp_path / "out.csv")


def test_vacuum_keeps_tags_lineage_and_the_newest(tmp_path: Path, paths: StatePaths) -> None:
    dataset = put(tmp_path, paths, [{"id": 1}])
    for number in (2, 3, 4):
        put(tmp_path, paths, [{"id": number}])
    dataset.tag("golden", 1)
    publish_version(dataset, 2, paths)
    told = vacuum(dataset, 0)
    assert (told.dry_run, told.files) == (True, 1)
    done = vacuum(dataset, 0, dry_run=False)
    assert done.files == 1
    assert set(done.kept) == {1, 2, 4}
    assert [rows_of(dataset, n) for n in (1, 2, 4)] == [[{"id": 1}], [{"id": 2}], [{"id": 4}]]
    with pytest.raises(NotFound, match="can't be restored"):
        restore(dataset, 3)
    for dry_run in (True, False):
        assert vacuum(dataset, 0, dry_run=dry_run).files == 0, "they are gone already"
    for work in (
        lambda: rows_page(dataset, 3),
        lambda: statistics(dataset, 3),
        lambda: diff(dataset, 3, 4),
        lambda: export(dataset, 3, tmp_path / "gone.jsonl"),
    ):
        with pytest.raises(NotFound, match="v3 of tickets are gone"):
            work()
    assert not list(tmp_path.glob("*gone*"))


def test_a_published_version_is_the_same_artifact_and_verified(
    tmp_path: Path, paths: StatePaths
) -> None:
    from engine.data import resolve_data
    from engine.registry import Registry

    dataset = put(tmp_path, paths, ONE)
    first = publish_version(dataset, 1, paths)
    assert publish_version(dataset, 1, paths) == first
    put(tmp_path, paths, [{"id": 3}])
    publish_version(dataset, 2, paths)
    artifact = Registry.open(paths).resolve("tickets@2")
    assert ("previous_version", first) in artifact.parents
    location = resolve_data("tickets@v1", paths)
    assert (location.version, location.manifest) == ("v1", first)
    assert list(iterate_rows(location.path)) == ONE


def test_a_published_dataset_is_not_removed_by_accident(tmp_path: Path, paths: StatePaths) -> None:
    dataset = put(tmp_path, paths, ONE)
    publish_version(dataset, 1, paths)
    with pytest.raises(Refused):
        remove("tickets", paths)
    remove("tickets", paths, force=True)
    with pytest.raises(NotFound):
        open_dataset("tickets", paths)


def test_one_writer_at_a_time(tmp_path: Path, paths: StatePaths) -> None:
    dataset = put(tmp_path, paths, ONE)
    with dataset.writing(), pytest.raises(Conflict):
        put(tmp_path, paths, [{"id": 5}])
    assert rows_of(dataset, 1) == ONE


def test_a_list_beside_removals_shows_what_is_left(tmp_path: Path) -> None:
    bench = Workbench(tmp_path / "state")
    source = tmp_path / "rows.jsonl"
    source.write_text('{"id": 1}\n')
    names = [f"d{number}" for number in range(25)]
    for name in names:
        bench.data.import_file(source, name, publish=False)
    # a removal that was killed half way
    left = bench.paths.datasets / "d0"
    left.rename(left.with_name(".d0.removed"))
    seen: list[set[str]] = []

    def remove() -> None:
        for name in names[1:]:
            bench.data.remove(name)

    remover = threading.Thread(target=remove)
    remover.start()
    while remover.is_alive():
        seen.append({view.name for view in bench.data.list()})
    remover.join()
    assert all(shown <= set(names[1:]) for shown in seen)
    assert bench.data.list() == ()
