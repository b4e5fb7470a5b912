"""LLaMA-Factory's YAML (``llamafactory-cli train config.yaml``) with its ``dataset_info.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.recipe.importing import hugging_face as hf
from engine.recipe.importing.translation import (
    Handler,
    Translation,
    Untranslatable,
    apply_rules,
    as_flag,
    as_number,
    as_whole,
    decimal_to,
    flag_to,
    ignored,
    text_to,
    whole_to,
)

TELLING = {"stage", "finetuning_type", "cutoff_len", "dataset_dir", "lora_target"}

STAGES = {"dpo": "dpo", "kto": "kto", "rm": "reward"}
#: LLaMA-Factory's column roles and the names our formats expect.
COLUMNS = {
    "alpaca": {"prompt": "instruction", "query": "input", "response": "output"},
    "sharegpt": {"messages": "conversations"},
    "preference": {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"},
    "kto": {"kto_tag": "label"},
}


def _dataset_info(sheet: Translation, foreign: Mapping[str, Any]) -> Mapping[str, Any]:
    """``dataset_info.json``: in ``dataset_dir``, or looked for beside and above the file."""
    named = foreign.get("dataset_dir")
    folders = [sheet.folder, sheet.folder / "data", *sheet.folder.parents[:4]]
    candidates = [sheet.folder / str(named), Path(str(named))] if named else []
    candidates += [parent / str(named or "data") for parent in sheet.folder.parents[:4]]
    for folder in [*candidates, *folders]:
        file = folder / "dataset_info.json"
        try:
            described = json.loads(file.read_text(encoding="utf-8"))
        except OSError:
            continue
        except ValueError as error:
            sheet.note(f"{file} is no JSON: {error}")
            continue
        if isinstance(described, dict):
            return {"": str(folder), **described}
    return {}


def _describe(sheet: Translation, name: str, info: Mapping[str, Any], target: str) -> None:
    entry = info.get(name)
    if not isinstance(entry, Mapping):
        sheet.put(target, hf.local_path(sheet, name))
        where = (
            f"{info['']}/dataset_info.json" if info else "dataset_info.json, which was not found"
        )
        sheet.note(f"dataset {name} is not described in {where}: {target} names it as it stands")
        return
    if entry.get("file_name"):
        sheet.put(target, str(Path(info[""]) / str(entry["file_name"])))
    else:
        place = next(
            (k for k in ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url") if k in entry), ""
        )
        sheet.put(target, str(entry.get(place, name)))
        sheet.note(
            f"dataset {name} is on a hub ({entry.get(place)}): download it, then set {target}"
        )
    if target != "data.train":
        return
    shape = str(entry.get("formatting", "alpaca"))
    if entry.get("ranking"):
        shape = "preference"
    columns = entry.get("columns") or {}
    if "kto_tag" in columns:
        shape = "kto"
    sheet.put("data.format", shape if shape != "alpaca" or columns else "alpaca")
    expected = COLUMNS.get(shape, {})
    renamed = {}
    for role, real in columns.items():
        ours = expected.get(role, role if role in ("system", "history", "tools") else "")
        if ours and ours != real:
            renamed[ours] = str(real)
        elif not ours:
            sheet.leave(
                f"dataset_info.{name}.columns.{role}", real, "rows of this format have no such part"
            )
    if renamed:
        sheet.put("data.columns", renamed)
    for key, value in entry.items():
        if key in ("tags", "subset", "split", "folder", "num_samples", "load_from"):
            reason = (
                "our readers know the usual role names"
                if key == "tags"
                else "the whole file is read"
            )
            sheet.leave(f"dataset_info.{name}.{key}", value, reason)


def _targets(sheet: Translation, value: Any) -> None:
    hf.targets(sheet, value)


def _validation(sheet: Translation, value: Any) -> None:
    size = as_number(sheet, value)
    if size >= 1:
        raise Untranslatable("a number of rows; ours is a fraction (data.eval_fraction)")
    if size > 0:
        sheet.put("data.eval_fraction", float(size))


def _prompt(sheet: Translation, value: Any) -> None:
    if as_flag(value):
        sheet.put("data.loss_on", "all")


def _last_turn(sheet: Translation, value: Any) -> None:
    if as_flag(value):
        sheet.put("data.loss_on", "last")


def _max_samples(sheet: Translation, value: Any) -> None:
    sheet.put("data.rows", as_whole(sheet, value))


RULES: dict[str, Handler] = {
    **hf.ARGUMENTS,
    "model_name_or_path": text_to("base"),
    "cutoff_len": whole_to("data.max_length"),
    "max_samples": _max_samples,
    "val_size": _validation,
    "train_on_prompt": _prompt,
    "mask_history": _last_turn,
    "lora_rank": whole_to("train.rank"),
    "lora_target": _targets,
    "pref_beta": decimal_to("preference.beta"),
    "neat_packing": flag_to("train.packing"),
    "pure_bf16": hf.precision("bf16"),
    **dict.fromkeys(
        (
            *("stage", "finetuning_type", "quantization_bit", "quantization_method", "use_dora"),
            *("dataset", "eval_dataset", "dataset_dir", "warmup_steps", "pref_loss"),
        ),
        ignored,
    ),
}
REASONS = {
    **hf.REASONS,
    "adapter_name_or_path": "name the adapter as `base`",
    "export_*": "add train.merge = true, or a quantize step",
    "infer_*": "not part of training",
    "image_*": "images are not supported",
    "video_*": "videos are not supported",
    "include_*": "measured anyway",
    "ray_*": "one job runs on one machine here",
    "cache_dir": "models and datasets are found by their references",
    "streaming": "rows are read as the file has them",
    "use_unsloth": "kernels are chosen by the device",
}


def translate(sheet: Translation, foreign: Mapping[str, Any]) -> None:
    """Fill the sheet from a LLaMA-Factory configuration."""
    stage = str(foreign.get("stage", "sft"))
    tuning = str(foreign.get("finetuning_type", "lora"))
    preference = STAGES.get(stage)
    loss = str(foreign.get("pref_loss") or "sigmoid")
    if stage == "dpo" and loss == "orpo":
        preference = "orpo"
    elif stage == "dpo" and loss != "sigmoid":
        sheet.leave("pref_loss", loss, "there is DPO (sigmoid) and ORPO")
    if tuning not in ("lora", "full"):
        sheet.leave("finetuning_type", tuning, "there is lora and full; translated as full")
    bits, by = foreign.get("quantization_bit"), foreign.get("quantization_method")
    if bits is not None and str(bits) != "4":
        sheet.leave("quantization_bit", bits, "a base is loaded as it is, or in 4 bits (qlora)")
    if by is not None and str(by).lower() not in ("bnb", "bitsandbytes"):
        sheet.leave("quantization_method", by, "the base is quantized by bitsandbytes")
    sheet.current = ("stage", stage)
    if stage == "pt":
        sheet.put("train.method", "pretrain")
        if tuning == "lora":
            sheet.note("pre-training trains all weights here, an adapter there")
    else:
        if stage not in ("sft", *STAGES):
            sheet.leave("stage", stage, "there is no such method; translated as supervised")
        hf.set_method(
            sheet,
            preference=preference,
            adapter=tuning == "lora",
            four_bit=str(bits) == "4",
            dora=bool(foreign.get("use_dora")),
        )
    if str(foreign.get("quantization_bit", "4")) != "4":
        sheet.leave("quantization_bit", foreign["quantization_bit"], "QLoRA uses 4 bits")
    _data(sheet, foreign)
    apply_rules(sheet, foreign, RULES, REASONS, hf.to_trainer)
    if foreign.get("warmup_steps") is not None:
        hf.warmup_from_steps(sheet, "warmup_steps", foreign["warmup_steps"])
    _defaults(sheet, lora=tuning == "lora")


def _data(sheet: Translation, foreign: Mapping[str, Any]) -> None:
    info = _dataset_info(sheet, foreign)
    for key, target in (("dataset", "data.train"), ("eval_dataset", "data.eval")):
        value = foreign.get(key)
        if value is None:
            continue
        names = value if isinstance(value, list) else str(value).split(",")
        names = [str(name).strip() for name in names if str(name).strip()]
        if not names:
            continue
        sheet.current = (key, value)
        _describe(sheet, names[0], info, target)
        for name in names[1:]:
            reason = "one dataset a recipe: join them with `modelops-tui data import --append`"
            sheet.leave(f"{key}: {name}", name, reason)


def _defaults(sheet: Translation, *, lora: bool) -> None:
    why = "and this is LLaMA-Factory's default"
    sheet.current = ("", None)
    sheet.default("train.lr", 5e-5, why)
    sheet.default("train.batch", 8, why)
    sheet.default("train.schedule", "linear", why)
    sheet.default("train.warmup", 0.0, why)
    sheet.default("data.max_length", 2048, why)
    if sheet.get("train.max_steps") is None:
        sheet.default("train.epochs", 3.0, why)
    if lora:
        sheet.default("train.rank", 8, why)
