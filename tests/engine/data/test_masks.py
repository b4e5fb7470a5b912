"""The loss mask covers the assistant's words and their end token, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from engine.data.formats import Example
from engine.data.masks import Encoder, TemplateProblem
from engine.errors import BadInput
from tests.support.tiny_model import CHAT_TEMPLATE, tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


def chat(*turns: tuple[str, str]) -> Example:
    return Example(1, "chat", messages=tuple({"role": r, "content": c} for r, c in turns))


def learned(encoder: Encoder, example: Example) -> list[str]:
    """The learned stretches as text."""
    found = encoder.encode(example)
    parts: list[list[int]] = []
    before = False
    for token, flag in zip(found.ids, found.trained, strict=True):
        if flag:
            if not before:
                parts.append([])
            parts[-1].append(token)
        before = flag
    return [encoder.tokenizer.decode(part) for part in parts]


TALK = chat(("user", "What?"), ("assistant", " The work\n"), ("user", "And?"), ("assistant", "No."))


def test_every_assistant_turn_with_its_end(tokenizer: Any) -> None:
    assert learned(Encoder(tokenizer), TALK) == [" The work\n<|im_end|>", "No.<|im_end|>"]


def test_only_the_last_turn(tokenizer: Any) -> None:
    assert learned(Encoder(tokenizer, "last"), TALK) == ["No.<|im_end|>"]


def test_all_text_ends_with_the_end_token(tokenizer: Any) -> None:
    (text,) = learned(Encoder(tokenizer, "all"), TALK)
    assert text.startswith("<|im_start|>system")
    assert text.endswith("No.<|im_end|>")
    assert Encoder(tokenizer, "all").encode(TALK).ends


def test_a_template_that_rewrites_earlier_turns(tokenizer: Any) -> None:
    """Such as those that drop earlier thoughts: the turn is found by a mark in its place."""
    template = CHAT_TEMPLATE.replace(
        "message['content'] +",
        "(message['content'] if loop.last else message['content'] | upper) +",
    )
    odd = tiny_tokenizer(template)
    assert learned(Encoder(odd), TALK) == [" THE WORK\n<|im_end|>", "No.<|im_end|>"]


def test_a_template_with_its_own_mask(tokenizer: Any) -> None:
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
        "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}"
        "{% endgeneration %}{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    encoder = Encoder(tiny_tokenizer(template))
    assert encoder.has_generation_mask
    assert learned(encoder, TALK) == [" The work\n<|im_end|>", "No.<|im_end|>"]


def test_a_template_that_refuses_says_why() -> None:
    template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(TemplateProblem, match="roles must alternate"):
        Encoder(tiny_tokenizer(template)).encode(TALK)


def test_a_template_without_roles_is_refused() -> None:
    """Nothing tells whose words are whose."""
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(BadInput, match="has no roles"):
        Encoder(tiny_tokenizer(template)).encode(TALK)


def test_a_turn_that_can_not_be_found_is_told() -> None:
    template = (
        "{% for m in messages %}{{ m['role'] + (m['content'] | length | string) }}{% endfor %}"
        "{{ messages | length }}"
    )
    with pytest.raises(TemplateProblem, match="hides where the assistant's turn 2 stands"):
        Encoder(tiny_tokenizer(template)).encode(TALK)


def test_no_template_is_told_with_the_way_out() -> None:
    with pytest.raises(BadInput, match="no chat template") as caught:
        Encoder(tiny_tokenizer(None)).encode(TALK)
    assert 'data.template = "chatml"' in caught.value.hint


def test_a_cut_row_loses_its_end(tokenizer: Any) -> None:
    encoder = Encoder(tokenizer)
    whole = encoder.encode(TALK)
    assert whole.ends
    assert not whole.truncated
    cut = encoder.encode(TALK, whole.length - 4)
    assert cut.truncated
    assert not cut.ends
    assert cut.length == whole.length
    assert cut.ids == whole.ids[:-4]


def test_prompt_and_completion(tokenizer: Any) -> None:
    example = Example(3, "completion", prompt="You may ", completion="use it")
    assert learned(Encoder(tokenizer), example) == ["use it<|im_end|>"]
    all_of_it = learned(Encoder(tokenizer, "all"), example)
    assert all_of_it == ["You may use it<|im_end|>"]


def test_plain_text_is_learned_whole(tokenizer: Any) -> None:
    found = Encoder(tokenizer).encode(Example(3, "text", text="the license"))
    assert all(found.trained)
    assert found.ends


def test_a_conversation_without_an_answer_has_nothing(tokenizer: Any) -> None:
    assert learned(Encoder(tokenizer), chat(("user", "What?"))) == []
