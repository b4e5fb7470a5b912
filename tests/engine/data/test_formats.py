"""Every data format is told by looking, and every wrong row is named by number and key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.data.formats import detect, read_examples
from engine.data.rows import Row, read_rows
from engine.errors import BadInput, NotFound

USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


def one(values: dict[str, Any], format_name: str = "auto") -> Any:
    (example,) = read_examples([Row(7, values)], format_name)
    assert example.number == 7
    return example


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"messages": [USER, ANSWER]}, "chat"),
        ({"conversations": [{"from": "human", "value": "q"}]}, "sharegpt"),
        ({"instruction": "q", "input": "", "output": "a"}, "alpaca"),
        ({"prompt": "q", "completion": "a"}, "prompt-completion"),
        ({"text": "t", "source": "x"}, "text"),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "preference"),
        ({"prompt": "q", "completion": "a", "label": True}, "kto"),
        ({"prompt": "q"}, "prompt"),
    ],
)
def test_formats_are_told_apart(values: dict[str, Any], name: str) -> None:
    found = detect(values)
    assert found is not None
    assert found.name == name


def test_sharegpt_and_alpaca_become_conversations() -> None:
    shared = one(
        {
            "system": "be brief",
            "conversations": [
                {"from": "human", "value": "q"},
                {"from": "gpt", "value": "a"},
            ],
        }
    )
    assert [m["role"] for m in shared.messages] == ["system", "user", "assistant"]
    alpaca = one({"instruction": "q", "input": "given", "output": "a", "history": [["x", "y"]]})
    assert [m["content"] for m in alpaca.messages] == ["x", "y", "q\n\ngiven", "a"]


def test_preferences_split_the_shared_prompt() -> None:
    found = one({"chosen": [USER, ANSWER], "rejected": [USER, {**ANSWER, "content": "b"}]})
    assert found.prompt == (USER,)
    assert found.completion == (ANSWER,)
    assert found.rejected[0]["content"] == "b"


def test_content_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert one({"messages": [{"role": "user", "content": parts}]}).messages[0]["content"] == "ab"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"messages": "hello"}, "row 7: 'messages' must be a list of messages, it is a str"),
        ({"messages": []}, "it is an empty list"),
        ({"messages": [{"content": "x"}]}, r"messages\[0\] has no 'role' \(it has 'content'\)"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "unknown role 'robot'"),
        ({"messages": [{"role": "user", "content": 3}]}, "is a int, not text"),
        ({"question": "q", "output": "a"}, "nearly: alpaca \\(missing 'instruction'\\)"),
        ({"prompt": "q", "completion": "a", "label": "maybe"}, "'label' must be true or false"),
        ({"chosen": "a", "rejected": [ANSWER]}, "must both be text or both be messages"),
    ],
)
def test_a_wrong_row_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match="1 of 1 rows can't be read") as caught:
        one(values)
    import re

    assert re.search(message, caught.value.why), caught.value.why


def test_a_mixed_file_names_every_stray_row() -> None:
    rows = [Row(i, {"messages": [USER, ANSWER]}) for i in range(1, 30)]
    rows[4] = Row(5, {"instruction": "q", "output": "a"})
    rows[20] = Row(21, {"mesages": [USER]})
    with pytest.raises(BadInput, match="2 of 29 rows") as caught:
        list(read_examples(rows))
    lines = caught.value.why.splitlines()
    assert lines[0].startswith("row 5: no 'messages' (it has 'instruction', 'output')")
    assert "it is alpaca, the rows before it are chat" in lines[0]
    assert lines[1].startswith("row 21: no 'messages' (it has 'mesages')")


def test_columns_are_renamed_and_a_missing_one_is_told() -> None:
    rows = [Row(1, {"question": "q", "answer": "a"})]
    names = {"instruction": "question", "output": "answer"}
    (found,) = read_examples(rows, "auto", names)
    assert found.messages[1]["content"] == "a"
    with pytest.raises(BadInput, match="no column 'reply'") as caught:
        list(read_examples(rows, "auto", {"output": "reply"}))
    assert "'question', 'answer'" in caught.value.why


def test_every_file_type_gives_the_same_rows(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet
    from deltalake import write_deltalake

    values = [{"prompt": 'a, "b"\nc', "completion": "é"}, {"prompt": "x", "completion": "y"}]
    (tmp_path / "r.jsonl").write_text("\n\n".join(json.dumps(v) for v in values))
    (tmp_path / "r.json").write_text(json.dumps({"data": values}))
    (tmp_path / "r.csv").write_text('\ufeffprompt,completion\n"a, ""b""\nc",é\nx,y\n')
    table = pa.Table.from_pylist(values)
    parquet.write_table(table, tmp_path / "r.parquet")
    write_deltalake(str(tmp_path / "table"), table)
    for name in ("r.jsonl", "r.json", "r.csv", "r.parquet", "table"):
        assert [row.values for row in read_rows(tmp_path / name)] == values, name
    assert [row.number for row in read_rows(tmp_path / "r.jsonl")] == [1, 3]


def test_an_older_delta_version_can_be_read(tmp_path: Path) -> None:
    import pyarrow as pa
    from deltalake import write_deltalake

    write_deltalake(str(tmp_path), pa.Table.from_pylist([{"text": "one"}]))
    write_deltalake(str(tmp_path), pa.Table.from_pylist([{"text": "two"}]), mode="append")
    assert len(list(read_rows(tmp_path))) == 2
    assert [row.values["text"] for row in read_rows(tmp_path, "v0")] == ["one"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": ', "a.jsonl:2: not JSON"),
        ("a.jsonl", b"[1]\n", "row 1 is no object"),
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b"\n\n", "has no rows"),
        ("a.json", b'{"a": 1}\n{"a": 2}', "is not JSON"),
        ("a.json", b'{"a": 1}', "holds one object, not a list"),
        ("a.csv", b"a,b\n1,2,3\n", "a.csv:2: more fields than the header"),
        ("a.txt", b"caf\xe9", "is not UTF-8"),
        ("a.parquet", b"PAR1 no", "is no Parquet file"),
        ("a.xlsx", b"PK", "in no format that rows can be read from"),
    ],
)
def test_a_bad_file_says_where(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=message):
        list(read_examples(read_rows(tmp_path / name)))


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no data file .*nothing\.jsonl"):
        list(read_rows(tmp_path / "nothing.jsonl"))
