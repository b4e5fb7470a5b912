"""Every mistake of a fine-tuning step is found before torch is imported, and explained."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from engine.errors import BadInput
from engine.paths import StatePaths
from engine.recipe.check import CheckContext, Problem
from recipes.finetune import trainer_table
from recipes.finetune.check import check
from recipes.finetune.schema import FinetuneSpec
from recipes.finetune.session import prepare_tokenizer
from recipes.finetune.unused import unused
from tests.support.tiny_model import build_tiny_model, tiny_tokenizer, write_jsonl

ROOT = Path(__file__).resolve().parents[3]


def problems(tmp_path: Path, model: Path | str, rows: Path | str, **more: Any) -> list[Problem]:
    spec = FinetuneSpec.model_validate(
        {
            "base": str(model),
            "data": {"train": str(rows), **more.pop("data", {})},
            "train": more.pop("train", {}),
            **more,
        }
    )
    return check(spec, CheckContext(StatePaths(tmp_path / "home"), tmp_path, "train"))


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("train", {"rank": 0}),
        ("train", {"lr": -1e-4}),
        ("train", {"lr": 5}),
        ("train", {"epochs": 0}),
        ("train", {"batch": 0}),
        ("train", {"batch": "much"}),
        ("train", {"dropout": 1.0}),
        ("train", {"accumulate": -1}),
        ("train", {"max_steps": 10**12}),
        ("train", {"targets": []}),
        ("train", {"method": "lorra"}),
        ("train", {"lr": float("nan")}),
        ("data", {"max_length": 3}),
        ("data", {"eval_fraction": 0.9}),
        ("data", {"format": "jsonl"}),
        ("data", {"on_truncate": "ignore"}),
        ("data", {"tran": "x"}),
    ],
)
def test_absurd_values_are_refused(section: str, values: dict[str, Any]) -> None:
    sections: dict[str, dict[str, Any]] = {"data": {"train": "x"}, "train": {}}
    sections[section] |= values
    with pytest.raises(ValidationError):
        FinetuneSpec.model_validate({"base": "x", **sections})


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"train": {"keep": "best"}}, "needs held-out rows"),
        ({"train": {"eval_every": 5}}, "needs held-out rows"),
        ({"data": {"train": "x", "eval": "y", "eval_fraction": 0.1}}, "not both"),
        ({"train": {"method": "grpo"}}, "needs preference.reward"),
        ({"train": {"method": "dpo", "packing": True}}, "not possible with method 'dpo'"),
    ],
)
def test_settings_that_contradict(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FinetuneSpec.model_validate({"base": "x", "data": {"train": "x"}, **sections})


def test_a_good_step_has_no_problem(tmp_path: Path, tiny_model: Path, tiny_chat: Path) -> None:
    assert problems(tmp_path, tiny_model, tiny_chat, data={"eval": str(tiny_chat)}) == []
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("method", "sections", "keys"),
    [
        (
            "full",
            {
                "train": {"rank": 8, "alpha": 8, "dropout": 0.1, "targets": ["x"], "merge": True},
                "preference": {"beta": 0.5, "head": "both", "generations": 8},
            },
            {
                *("train.rank", "train.alpha", "train.dropout", "train.targets", "train.merge"),
                *("preference.beta", "preference.head", "preference.generations"),
            },
        ),
        ("lora", {"train": {"rank": 8, "merge": True}}, set()),
        ("lora", {"preference": {"neurons": 8}}, {"preference.neurons"}),
        ("dpo", {"data": {"on_truncate": "fail"}, "preference": {"beta": 0.5}}, set()),
        (
            "dpo",
            {"data": {"on_truncate": "truncate", "loss_on": "last"}, "train": {"rank": 8}},
            {"data.on_truncate", "data.loss_on"},
        ),
        ("pretrain", {"data": {"loss_on": "last"}}, {"data.loss_on"}),
        (
            "reward",
            {
                "train": {"schedule": "linear", "accumulate": 2, "checkpointing": True},
                "preference": {"head": "spiking", "ticks": 8},
                "trainer": {"adam_beta1": 0.5},
            },
            {"train.schedule", "train.checkpointing", "trainer"},
        ),
        ("reward", {"preference": {"ticks": 8}}, {"preference.ticks"}),
        (
            "grpo",
            {"data": {"duplicates": "drop"}, "preference": {"reward": "house-style", "beta": 0.5}},
            set(),
        ),
    ],
)
def test_keys_without_effect_are_told(
    method: str, sections: dict[str, dict[str, Any]], keys: set[str]
) -> None:
    spec = FinetuneSpec.model_validate(
        {
            "base": "b",
            "data": {"train": "x", **sections.get("data", {})},
            "train": {"method": method, **sections.get("train", {})},
            **{k: v for k, v in sections.items() if k in ("preference", "trainer")},
        }
    )
    found = list(unused(spec))
    assert {".".join(map(str, p.path)) for p in found} == keys
    assert {p.severity for p in found} <= {"warning"}
    assert all("no effect" in p.what for p in found)
    again = FinetuneSpec.model_validate(spec.model_dump(mode="json"))
    assert list(unused(again)) == found, "frozen defaults are not what somebody set"


def test_missing_model_and_data_are_told_together(tmp_path: Path) -> None:
    found = problems(tmp_path, "smolm2-135m-instruct", tmp_path / "nothing.jsonl")
    assert [p.path for p in found] == [("base",), ("data", "train")]
    assert "did you mean smollm2-135m-instruct?" in found[0].advice


def test_references_to_other_steps_are_left_alone(tmp_path: Path) -> None:
    assert problems(tmp_path, "${first.model}", "${prepare.dataset}") == []


def test_a_wrong_row_is_seen_already(tmp_path: Path, tiny_model: Path) -> None:
    rows = write_jsonl(tmp_path / "r.jsonl", [{"text": "a"}, {"txt": "b"}])
    (found,) = problems(tmp_path, tiny_model, rows)
    assert "row 2: no 'text' (it has 'txt')" in found.what


def test_rows_the_method_can_not_use(tmp_path: Path, tiny_model: Path, tiny_chat: Path) -> None:
    (found,) = problems(tmp_path, tiny_model, tiny_chat, train={"method": "kto"})
    assert "can't learn from chat rows" in found.what
    assert found.path == ("data", "train")


def test_targets_that_match_nothing_list_what_exists(
    tmp_path: Path, tiny_model: Path, tiny_chat: Path
) -> None:
    for base in (str(tiny_model), "smollm2-135m-instruct"):
        found = problems(tmp_path, base, tiny_chat, train={"targets": ["q_proj", "query"]})
        assert [p.path for p in found] == [("train", "targets", 1)]
        assert "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in found[0].advice


def test_a_base_without_chat_template(tmp_path: Path, tiny_chat: Path) -> None:
    base = build_tiny_model(tmp_path / "plain", chat_template=None)
    (found,) = problems(tmp_path, base, tiny_chat)
    assert "has no chat template" in found.what
    assert problems(tmp_path, base, tiny_chat, data={"template": "chatml"}) == []
    (missing,) = problems(tmp_path, base, tiny_chat, data={"template": "no-such.jinja"})
    assert missing.path == ("data", "template")


def test_no_space_is_told(
    tmp_path: Path, tiny_model: Path, tiny_chat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=1000))
    (found,) = problems(tmp_path, tiny_model, tiny_chat)
    assert "GiB of disk" in found.what


@pytest.mark.parametrize(
    ("name", "value", "what", "advice"),
    [
        ("neftune_noise_alpa", 5.0, "is not an argument", "did you mean 'neftune_noise_alpha'?"),
        ("neftune_noise_alpha", "five", "must be a number, it is text", ""),
        ("dataloader_drop_last", 1, "must be true or false", ""),
        ("learning_rate", 1e-4, "is not set here", "use train.lr"),
        ("deepspeed", "zero3.json", "is not set here", "train.distributed"),
        ("fsdp", "full_shard", "is not set here", "train.distributed"),
        ("warmup_ratio", 0.1, "is not an argument", "use train.warmup"),
        ("hub_strategy", "evry_save", "has no choice", "did you mean 'every_save'?"),
    ],
)
def test_trainer_arguments_are_checked(name: str, value: Any, what: str, advice: str) -> None:
    found = trainer_table.problem_with("lora", name, value)
    assert found is not None
    assert what in found[0]
    assert advice in found[1]


def test_arguments_the_library_takes_pass() -> None:
    assert trainer_table.problem_with("lora", "adam_beta2", 0.95) is None
    assert trainer_table.problem_with("dpo", "label_smoothing", 0.1) is None
    assert trainer_table.problem_with("lora", "label_smoothing", 0.1) is not None


def test_the_table_is_that_of_the_installed_libraries() -> None:
    pytest.importorskip("trl")
    generated = json.loads(json.dumps(trainer_table.generate()))
    assert generated == trainer_table.shipped()
    every = {name for table in generated.values() for name in table}
    assert not set(trainer_table.OWNED) - every


def test_checking_and_estimating_import_nothing_heavy(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from engine.paths import StatePaths
from engine.recipe.check import CheckContext
from engine.types.system import EstimateContext
from recipes.finetune.check import check
from recipes.finetune.fit import estimate
from recipes.finetune.schema import FinetuneSpec
spec = FinetuneSpec.model_validate({"base": "smollm2-135m-instruct",
    "data": {"train": "house/train", "eval": "house/heldout"}, "trainer": {"adam_beta2": 0.9}})
paths = StatePaths(Path(sys.argv[1]))
assert check(spec, CheckContext(paths, Path("."), "t")) == []
assert estimate(spec, EstimateContext(paths, "cpu")).memory_bytes > 10**9
heavy = {"torch", "transformers", "peft", "numpy", "gguf", "pyarrow"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_tokenizer_without_end_token() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(BadInput, match="has no end token") as caught:
        prepare_tokenizer(tokenizer, None, "odd")
    assert "never learns to stop" in caught.value.why


def test_padding_is_never_the_end_token() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    prepare_tokenizer(tokenizer, None, "odd")
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_a_template_is_replaced_only_when_asked(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    own = tokenizer.chat_template
    prepare_tokenizer(tokenizer, None, "tiny")
    assert tokenizer.chat_template == own
    prepare_tokenizer(tokenizer, "chatml", "tiny")
    assert tokenizer.chat_template != own
    broken = tmp_path / "broken.jinja"
    broken.write_text("{% for m in messages %}{{ m['role'] }}")
    with pytest.raises(BadInput, match="is no valid template"):
        prepare_tokenizer(tokenizer, str(broken), "tiny")
