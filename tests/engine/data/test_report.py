"""The data report on a file whose every count is known."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from engine.data.duplicates import DuplicateIndex, shingle_sets
from engine.data.formats import Example
from engine.data.masks import Encoder
from engine.data.report import DataReport, encode_all
from tests.support.tiny_model import chat_rows, tiny_tokenizer

WORDS = (
    "license",
    "work",
    "copy",
    "notice",
    "source",
    "patent",
    "terms",
    "right",
    "owner",
    "legal",
    "entity",
    "control",
    "form",
    "change",
    "public",
    "grant",
    "text",
    "name",
    "mark",
    "file",
    "data",
    "week",
    "hour",
    "river",
    "stone",
    "paper",
    "light",
    "green",
)


def sentence(seed: int, count: int = 12) -> str:
    """Words that differ from sentence to sentence in order and choice."""
    return " ".join(WORDS[(seed * 7 + i * (seed % 5 + 2)) % len(WORDS)] for i in range(count))


def chat(number: int, question: str, answer: str) -> Example:
    turns = (("user", question), ("assistant", answer))
    return Example(number, "chat", messages=tuple({"role": r, "content": c} for r, c in turns))


def known_file() -> list[Example]:
    rows = [chat(i, f"Question {i}: {sentence(i)}?", sentence(i + 50)) for i in range(1, 21)]
    long = " ".join(sentence(200 + i) for i in range(12))
    rows += [
        chat(21, f"Question 1: {sentence(1)}?", sentence(51)),  # repeats row 1
        chat(22, f"  Question 2:  {sentence(2)}?", sentence(52)),  # row 2 but for white space
        chat(23, f"Question 3: {sentence(3)}!!", sentence(53) + " extra"),  # nearly row 3
        chat(24, "Dear {{name}}, may I?", "Yes you may do so, of course."),
        chat(25, "Who are you?", "I am <your name here>, at your service."),
        chat(26, "Say nothing.", ""),
        chat(27, "Noise?", "z" * 60),
        chat(28, "Bell?", "a\x07b is a strange answer"),
        chat(29, f"Tell me all about it, {sentence(99)}", long),  # too long, cut in the answer
        chat(30, " ".join(WORDS[::-1] * 8), "Short."),  # too long, cut before the answer
        Example(31, "chat", messages=({"role": "user", "content": "Only a question?"},)),
    ]
    return rows


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(tiny_tokenizer())


def measured(encoder: Encoder, policy: str, **more: Any) -> tuple[DataReport, list[int]]:
    report = DataReport("known", max_length=200, on_truncate=policy)
    kept = [
        e.number for e in encode_all(known_file(), encoder, report, index=DuplicateIndex(), **more)
    ]
    return report, kept


def test_every_count(encoder: Encoder) -> None:
    held = [chat(1, f"Question 5: {sentence(5)}?", sentence(55)), chat(2, "New?", "Quite new.")]
    report, kept = measured(encoder, "drop", held_out=held)
    assert report.rows == 31
    assert report.exact_duplicates.rows == [21, 22]
    assert report.near_duplicates.rows == [23]
    assert report.placeholders.rows == [24, 25]
    assert report.empty.rows == [26]
    assert report.absurd.rows == [27, 28]
    assert report.too_long.rows == [29, 30]
    assert report.lost_end.rows == [29, 30]
    assert report.nothing_to_learn.rows == [30, 31]
    assert report.overlap.rows == [1]
    assert kept == [*range(1, 29)]
    assert report.used == 28
    assert report.dropped == 3
    assert sum(report.histogram.values()) == 31
    assert report.longest > 200


def test_truncate_keeps_what_can_be_learned(encoder: Encoder) -> None:
    report, kept = measured(encoder, "truncate")
    assert kept == [*range(1, 30)]
    assert report.lost_end.rows == [29, 30]
    assert any("cut to 200 tokens and lose their end" in text for text in report.warnings())


def test_duplicates_can_be_dropped(encoder: Encoder) -> None:
    _, kept = measured(encoder, "drop", drop_duplicates=True)
    assert 21 not in kept
    assert 22 not in kept
    assert 23 in kept


def test_the_counts_are_shown(encoder: Encoder) -> None:
    report, _ = measured(encoder, "drop")
    table = {row[0]: row[1:] for row in report.table()["rows"]}
    assert table["exact duplicates"] == [2, "21, 22"]
    assert table["longer than 200"] == [2, "29, 30"]
    assert report.to_json()["placeholders"] == {"count": 2, "rows": [24, 25]}


def test_near_duplicates_follow_jaccard() -> None:
    index = DuplicateIndex()
    words = [f"word{i}" for i in range(100)]
    assert index.add(1, " ".join(words)) is None
    # four words changed far apart touch 12 of 98 shingles: (98 - 12) / (98 + 12) = 0.78
    far = [w if i not in (10, 30, 50, 70) else "other" + w for i, w in enumerate(words)]
    assert index.find(" ".join(far)) is None
    near = [w if i not in (10, 50) else "other" + w for i, w in enumerate(words)]
    assert index.find(" ".join(near)) == ("near", 1)


def test_shingles_are_the_triples_of_words() -> None:
    import random
    import re

    rng = random.Random(5)
    alphabet = "ab c\u00e9\u4e2d \U0001f600\n_9\u0301 Z\u212a\u0130-"
    texts = ["".join(rng.choices(alphabet, k=rng.randint(0, 160))) for _ in range(300)]
    texts.append("w " * 5000)
    for text, found in zip(texts, shingle_sets(texts), strict=True):
        words = re.findall(r"\w+", text.lower())
        triples = {tuple(words[i : i + 3]) for i in range(len(words) - 2)}
        assert (found is None) == (len(words) < 5), text
        assert found is None or len(found) == len(triples), text
    one, same, other = shingle_sets(["a b c d e", "A  b, C d\ne", "a b c d f"])
    assert (one == same).all()
    assert len(set(one) & set(other)) == 2


def test_texts_added_together_are_texts_added_one_by_one() -> None:
    texts = [sentence(i % 90, 20 + i % 3) + (" more" if i % 7 else "") for i in range(300)]
    alone, together = DuplicateIndex(), DuplicateIndex()
    expected = [alone.add(i, text) for i, text in enumerate(texts)]
    assert {found and found[0] for found in expected} == {None, "exact", "near"}
    assert together.add_many(range(300), texts) == expected
    assert together.find_many(texts) == [alone.find(text) for text in texts]


@pytest.mark.bench
def test_a_hundred_thousand_rows_in_a_minute(encoder: Encoder) -> None:
    import resource

    rows = (
        chat(i, f"Question {i}: {sentence(i, 20)}?", sentence(i * 31 + 7, 40))
        for i in range(100_000)
    )
    report = DataReport("many", max_length=1024)
    began = time.monotonic()
    for _ in encode_all(rows, encoder, report, index=DuplicateIndex()):
        pass
    assert report.rows == 100_000
    assert time.monotonic() - began < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 1 << 20


def test_runs_are_found_by_the_quick_look_too() -> None:
    """The words are looked at before the slow pattern: nothing it finds may be lost."""
    import random

    from engine.data.report import _RUN, _is_a_run

    rng = random.Random(3)
    for _ in range(400):
        words = [rng.choice(["a", "bb", "ccc ddd", "x" * rng.randint(1, 60)]) for _ in range(30)]
        if rng.random() < 0.5:
            words[3:3] = ["same"] * rng.randint(17, 22)
        text = rng.choice([" ", "\n", "  "]).join(words)
        assert _is_a_run(text) == (_RUN.search(text) is not None), text


def test_rows_encoded_together_are_rows_encoded_alone(tiny_model: Path) -> None:
    from engine.data.formats import read_examples
    from engine.data.masks import Encoder, TemplateProblem
    from engine.data.rows import Row
    from engine.models import ModelLocation
    from recipes.loading import load_tokenizer

    encoder = Encoder(load_tokenizer(ModelLocation("hf", tiny_model, None, "tiny")))
    rows = [Row(i, values) for i, values in enumerate(chat_rows(5), 1)]
    pairs = [Row(1, {"prompt": "What?", "chosen": "A license.", "rejected": "No, no notice."})]
    completions = [Row(1, {"prompt": "What?", "completion": "A license."})]
    for some in (rows, pairs, completions, [Row(1, {"text": "A notice."})]):
        examples = list(read_examples(some))
        together = encoder.encode_many(examples)
        assert together == [encoder.encode(example) for example in examples]
        assert not any(isinstance(item, TemplateProblem) for item in together)
