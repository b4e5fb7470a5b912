"""``data check`` as the CLI and the screens ask for it: the service process, a real tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.api.data import Data
from engine.errors import BadInput
from engine.paths import StatePaths

GOOD = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


def test_wrong_rows_are_named_and_a_dataset_is_read_by_its_name(
    tmp_path: Path, tiny_model: Path
) -> None:
    wrong = [GOOD, {"messages": "no list"}, GOOD, {"text": "another format"}]
    bad, good, prompts = (tmp_path / f"{name}.jsonl" for name in ("bad", "good", "prompts"))
    bad.write_text("".join(json.dumps(row) + "\n" for row in wrong))
    good.write_text((json.dumps(GOOD) + "\n") * 2)
    prompts.write_text('{"prompt": "a", "response": "b"}\n')
    data = Data(StatePaths(tmp_path / "state").ensure())
    try:
        with pytest.raises(BadInput, match="2 of 4 rows can't be read as chat") as caught:
            list(data.check(str(bad), base=str(tiny_model)))
        assert "row 2: 'messages' must be a list" in caught.value.why
        assert "row 4:" in caught.value.why

        data.import_file(good, "tickets", publish=False)
        *_, last = data.check("tickets", base=str(tiny_model))
        report = last["result"]["report"]
        assert (report["rows"], report["exact_duplicates"]) == (2, {"count": 1, "rows": [2]})

        *_, last = data.check(str(prompts), base=str(tiny_model))
        assert any("read as prompts alone" in note for note in last["result"]["table"]["notes"])
    finally:
        data.close()
