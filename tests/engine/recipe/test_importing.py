"""Foreign recipes: what is translated, what is not and why, and that the result is valid."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import BadInput, ModelOpsError, NotFound
from engine.recipe import prepare
from engine.recipe.importing import import_file
from engine.types.recipes import ImportedRecipe
from tests.engine.recipe.conftest import Bench

AXOLOTL = """\
base_model: smollm2-135m-instruct
model_type: LlamaForCausalLM
load_in_4bit: true
datasets:
  - path: rows.jsonl
    type: chat_template
    roles_to_train: [assistant]
  - path: more.jsonl
    type: alpaca
val_set_size: 0.2
sequence_len: 2048
sample_packing: true
pad_to_sequence_len: true
adapter: qlora
lora_r: 32
lora_alpha: 16
lora_dropout: 0.05
lora_target_linear: true
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 3
optimizer: paged_adamw_8bit
lr_scheduler: cosine
learning_rate: 2e-4
bf16: auto
tf32: false
gradient_checkpointing: true
flash_attention: true
warmup_ratio: 0.1
evals_per_epoch: 4
wandb_project: mine
weight_decay: 0.0
special_tokens:
  pad_token: "<pad>"
adam_beta2: 0.95
no_such_key: 7
output_dir: ./out
"""

LLAMA_FACTORY = """\
model_name_or_path: smollm2-135m-instruct
trust_remote_code: true
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
dataset: house_rows,identity
template: llama3
cutoff_len: 1024
max_samples: 1000
overwrite_cache: true
preprocessing_num_workers: 16
output_dir: saves/x
logging_steps: 10
save_steps: 500
plot_loss: true
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
val_size: 0.1
eval_strategy: steps
eval_steps: 500
"""
DATASET_INFO = {
    "house_rows": {
        "file_name": "questions.json",
        "columns": {"prompt": "question", "query": "context", "response": "answer"},
    },
    "identity": {"hf_hub_url": "someone/identity"},
}

TRL = """\
model_name_or_path: smollm2-135m-instruct
dataset_name: rows.jsonl
dataset_train_split: train
learning_rate: 2.0e-4
max_steps: 100
warmup_steps: 10
per_device_train_batch_size: 2
gradient_accumulation_steps: 8
gradient_checkpointing: true
packing: true
max_length: 512
use_peft: true
lora_r: 32
lora_alpha: 16
lora_target_modules: [q_proj, v_proj]
eos_token: "<|im_end|>"
report_to: none
adam_beta2: 0.98
"""

TORCHTUNE = """\
output_dir: /tmp/out
model:
  _component_: torchtune.models.llama3_2.lora_llama3_2_1b
  lora_attn_modules: ['q_proj', 'v_proj', 'output_proj']
  apply_lora_to_mlp: true
  lora_rank: 64
  lora_alpha: 128
  lora_dropout: 0.0
tokenizer:
  _component_: torchtune.models.llama3.llama3_tokenizer
  path: /tmp/tokenizer.model
  max_seq_len: 512
checkpointer:
  _component_: torchtune.training.FullModelHFCheckpointer
  checkpoint_dir: ${output_dir}/base
  model_type: LLAMA3_2
dataset:
  _component_: torchtune.datasets.chat_dataset
  source: json
  data_files: rows.jsonl
  packed: false
seed: null
shuffle: true
batch_size: 4
optimizer:
  _component_: torch.optim.AdamW
  fused: true
  weight_decay: 0.01
  lr: 3e-4
lr_scheduler:
  _component_: torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup
  num_warmup_steps: 100
loss:
  _component_: torchtune.modules.loss.CEWithChunkedOutputLoss
epochs: 1
max_steps_per_epoch: null
gradient_accumulation_steps: 8
clip_grad_norm: null
compile: false
device: cuda
dtype: bf16
enable_activation_checkpointing: false
metric_logger:
  _component_: torchtune.training.metric_logging.DiskLogger
  log_dir: ${output_dir}/logs
log_every_n_steps: 1
"""

UNSLOTH = """\
model:
  model_name: smollm2-135m-instruct
  max_seq_length: 1024
  load_in_4bit: false
lora:
  r: 16
  lora_alpha: 16
  lora_dropout: 0
  target_modules: q_proj, k_proj
  use_gradient_checkpointing: unsloth
  random_state: 3407
  use_rslora: false
training:
  dataset: rows.jsonl
  per_device_train_batch_size: 2
  gradient_accumulation_steps: 4
  warmup_steps: 5
  max_steps: 60
  learning_rate: 0.0002
  optim: adamw_8bit
  lr_scheduler_type: linear
"""


def imported(bench: Bench, text: str, name: str = "foreign.yaml") -> ImportedRecipe:
    path = bench.folder / name
    path.write_text(text)
    return import_file(path, bench.paths)


def document(found: ImportedRecipe) -> dict[str, Any]:
    return tomllib.loads(found.text)


def left(found: ImportedRecipe) -> dict[str, str]:
    return {item.key: item.reason for item in found.untranslated}


def assert_valid(bench: Bench, found: ImportedRecipe) -> None:
    assert found.diagnostics == ()
    prepare(found.text, (), bench.paths, source_path=bench.folder / "out.toml")


def test_axolotl(bench: Bench) -> None:
    found = imported(bench, AXOLOTL)
    assert found.dialect == "axolotl"
    recipe = document(found)
    assert recipe["base"] == "smollm2-135m-instruct"
    assert recipe["data"] == {
        "train": str(bench.folder / "rows.jsonl"),
        "format": "chat",
        "eval_fraction": 0.2,
        "max_length": 2048,
    }
    train = recipe["train"]
    assert train["method"] == "qlora"
    assert (train["rank"], train["alpha"], train["batch"], train["accumulate"]) == (32, 16, 2, 4)
    assert train["lr"] == 2e-4, "YAML reads 2e-4 as text"
    assert any("2e-4 as text" in note for note in found.notes)
    assert train["optimizer"] == "adamw-paged-8bit"
    assert train["packing"] is True
    assert train["warmup"] == 0.1
    assert recipe["trainer"] == {"adam_beta2": 0.95}
    reasons = left(found)
    assert "join them" in reasons["datasets[1]"]
    assert "tokenizer comes with the model" in reasons["special_tokens"]
    assert "no_such_key" in reasons
    assert "nothing is sent anywhere" in reasons["wandb_project"]
    assert set(reasons) >= {"model_type", "flash_attention", "evals_per_epoch", "output_dir"}
    assert_valid(bench, found)


def test_llama_factory_with_its_dataset_info(bench: Bench) -> None:
    (bench.folder / "data").mkdir()
    (bench.folder / "data" / "dataset_info.json").write_text(json.dumps(DATASET_INFO))
    (bench.folder / "data" / "questions.json").write_text(
        json.dumps([{"question": f"q{i}", "context": "", "answer": f"a{i}"} for i in range(20)])
    )
    found = imported(bench, LLAMA_FACTORY)
    assert found.dialect == "llama-factory"
    recipe = document(found)
    assert recipe["data"]["train"] == str(bench.folder / "data" / "questions.json")
    assert recipe["data"]["format"] == "alpaca"
    assert recipe["data"]["columns"] == {
        "instruction": "question",
        "input": "context",
        "output": "answer",
    }
    assert recipe["data"]["rows"] == 1000
    assert recipe["train"]["method"] == "lora"
    assert recipe["train"]["targets"] == "all-linear"
    assert recipe["train"]["save_every"] == 500
    assert recipe["train"]["eval_every"] == 500
    reasons = left(found)
    assert "template that comes with the model" in reasons["template"]
    assert "never run" in reasons["trust_remote_code"]
    assert "dataset: identity" in reasons
    assert_valid(bench, found)


@pytest.mark.parametrize(
    ("change", "method"),
    [
        ({"stage": "pt"}, "pretrain"),
        ({"stage": "dpo"}, "dpo"),
        ({"stage": "dpo", "pref_loss": "orpo"}, "orpo"),
        ({"stage": "kto"}, "kto"),
        ({"stage": "rm"}, "reward"),
        ({"quantization_bit": "4"}, "qlora"),
        ({"use_dora": "true"}, "dora"),
        ({"finetuning_type": "full"}, "full"),
    ],
)
def test_llama_factory_methods(bench: Bench, change: dict[str, str], method: str) -> None:
    lines = [f"{key}: {value}" for key, value in change.items()]
    base = {"model_name_or_path": "smollm2", "stage": "sft", "dataset": "x", "cutoff_len": "64"}
    lines += [f"{key}: {value}" for key, value in base.items() if key not in change]
    recipe = document(imported(bench, "\n".join(lines)))
    assert recipe["train"]["method"] == method


def test_trl(bench: Bench) -> None:
    found = imported(bench, TRL)
    assert found.dialect == "trl"
    train = document(found)["train"]
    assert train["warmup"] == 0.1, "10 of 100 steps"
    assert train["max_steps"] == 100
    assert train["targets"] == ["q_proj", "v_proj"]
    assert train["dropout"] == 0.05, "TRL's own default is written out"
    assert train["schedule"] == "linear"
    assert "epochs" not in train
    assert document(found)["trainer"] == {"adam_beta2": 0.98}
    assert "eos_token" in left(found)
    assert_valid(bench, found)


def test_torchtune(bench: Bench) -> None:
    found = imported(bench, TORCHTUNE)
    assert found.dialect == "torchtune"
    recipe = document(found)
    assert recipe["base"] == "/tmp/out/base"
    assert [d.key for d in found.diagnostics] == ["base"], "the model is for the user to settle"
    train = recipe["train"]
    assert train["method"] == "lora"
    assert set(train["targets"]) == {
        "q_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    }
    assert (train["lr"], train["clip"], train["precision"]) == (3e-4, 0.0, "bf16")
    assert recipe["data"]["train"] == str(bench.folder / "rows.jsonl")
    assert recipe["resources"]["device"] == "gpu"
    reasons = left(found)
    assert "fraction of the steps" in reasons["lr_scheduler.num_warmup_steps"]
    assert "metric_logger._component_" in reasons
    assert "tokenizer.path" in reasons


def test_unsloth(bench: Bench) -> None:
    found = imported(bench, UNSLOTH)
    assert found.dialect == "unsloth"
    recipe = document(found)
    train = recipe["train"]
    assert train["method"] == "lora"
    assert recipe["seed"] == 3407
    assert train["targets"] == ["q_proj", "k_proj"]
    assert train["optimizer"] == "adamw-8bit"
    assert train["warmup"] == round(5 / 60, 4)
    assert train["checkpointing"] is True
    assert "use_rslora" in left(found)


@pytest.mark.parametrize(
    ("dialect", "more", "kept"),
    [
        ("trl", "padding_free: true\n", "padding_free"),
        ("axolotl", "batch_flattening: true\nsample_packing: false\n", "padding_free"),
        ("trl", "packing: true\n", "packing"),
    ],
)
def test_rows_in_a_line(bench: Bench, dialect: str, more: str, kept: str) -> None:
    text = {"trl": TRL, "axolotl": AXOLOTL}[dialect]
    names = [line.partition(":")[0] for line in more.splitlines()]
    lines = [x for x in text.splitlines() if x.partition(":")[0] not in names]
    recipe = document(imported(bench, "\n".join(lines) + "\n" + more))
    assert recipe["train"][kept] is True


def test_several_devices_and_kernels_are_listed_with_reasons(bench: Bench) -> None:
    more = "deepspeed: zero3.json\nuse_liger_kernel: true\nattn_implementation: flash_attention_2\n"
    reasons = left(imported(bench, TRL + "\n" + more))
    assert "train.distributed" in reasons["deepspeed"]
    assert "train.kernels" in reasons["use_liger_kernel"]
    assert "train.attention" in reasons["attn_implementation"]


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        (AXOLOTL, "adapter", "llama-adapter"),
        (AXOLOTL, "load_in_4bit", "${LOAD_IN_4BIT}"),
        (LLAMA_FACTORY, "quantization_bit", "8"),
        (LLAMA_FACTORY, "quantization_method", "hqq"),
    ],
)
def test_a_value_without_counterpart_is_listed(
    bench: Bench, text: str, key: str, value: str
) -> None:
    lines = [line for line in text.splitlines() if line.partition(":")[0] != key]
    assert key in left(imported(bench, "\n".join([*lines, f"{key}: {value}"])))


def test_a_file_that_only_has_a_template_is_no_recipe(bench: Bench) -> None:
    """As a release drafter's configuration has one."""
    with pytest.raises(BadInput, match="no recipe of"):
        imported(bench, "name-template: v1\ntemplate: changes\n")


@pytest.mark.parametrize("text", [AXOLOTL, LLAMA_FACTORY, TRL, TORCHTUNE, UNSLOTH])
def test_the_list_is_also_in_the_file(bench: Bench, text: str) -> None:
    found = imported(bench, text)
    assert found.text.startswith("# Imported from foreign.yaml")
    for item in found.untranslated:
        assert f"#   {item.key} = " in found.text


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "holds no keys"),
        ("- a\n- b\n", "holds no keys"),
        ("a: [1, 2\n", "not valid YAML"),
        ("a: 1\nb: 2\n", "this is no recipe of"),
        ("&a [*a]", "holds no keys"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_files_that_are_none(bench: Bench, text: str, what: str) -> None:
    with pytest.raises(BadInput, match=what) as caught:
        imported(bench, text)
    assert "NoneType" not in caught.value.why
    with pytest.raises(NotFound):
        import_file(Path("nowhere.yaml"), bench.paths)


def test_an_unknown_dialect(bench: Bench) -> None:
    path = bench.folder / "x.yaml"
    path.write_text("a: 1")
    with pytest.raises(BadInput, match="no dialect") as caught:
        import_file(path, bench.paths, dialect="axolotle")
    assert caught.value.hint == "did you mean `axolotl`?"


KEYS = sorted(
    {
        line.split(":")[0].strip(" -")
        for text in (AXOLOTL, LLAMA_FACTORY, TRL, TORCHTUNE, UNSLOTH)
        for line in text.splitlines()
    }
)
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-10, 10**12)
    | st.floats()
    | st.sampled_from(["", "auto", "3e-4", "${x}", "a\nb", "日本", "-1", "all", "q_proj,v_proj"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.dictionaries(st.sampled_from(KEYS), JUNK, min_size=1, max_size=8),
    st.sampled_from(["axolotl", "llama-factory", "trl", "torchtune", "unsloth"]),
)
def test_junk_is_never_a_crash(bench: Bench, foreign: dict[str, Any], dialect: str) -> None:
    path = bench.folder / "junk.yaml"
    path.write_text(json.dumps(foreign))
    try:
        found = import_file(path, bench.paths, dialect=dialect)
    except ModelOpsError:
        return
    tomllib.loads(found.text)
