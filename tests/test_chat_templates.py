"""Helpers for chat data: markers from the template, labels for responses only."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdl import chat_templates
from mdl.chat_templates import (
    IGNORED,
    get_chat_template,
    markers,
    standardize_sharegpt,
    train_on_responses_only,
)
from mdl.errors import UsageError
from tests.loader import tiny

LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + "
    "'<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + "
    "('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] + "
    "'<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}{{ m['content'] + eos_token }}"
    "{% endif %}{% endfor %}"
)
TALK = [
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris."},
    {"role": "user", "content": "And what was asked?"},
    {"role": "assistant", "content": "The capital."},
]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (chat_templates.CHATML, ("<|im_start|>user\n", "<|im_start|>assistant\n")),
        (
            LLAMA3,
            (
                "<|start_header_id|>user<|end_header_id|>\n\n",
                "<|start_header_id|>assistant<|end_header_id|>\n\n",
            ),
        ),
        (GEMMA, ("<start_of_turn>user\n", "<start_of_turn>model\n")),
        (MISTRAL, ("[INST] ", " [/INST]")),
        (tiny.TEMPLATE, ("user: ", "assistant: ")),
    ],
    ids=["chatml", "llama-3", "gemma", "mistral", "plain"],
)
def test_markers_are_those_of_the_template(template: str, expected: tuple[str, str]) -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = template
    assert markers(tokenizer) == expected


def labelled(messages: list[dict[str, str]], **options: Any) -> str:
    """The text that is learned of a conversation, by the plain template."""
    tokenizer = tiny.tokenizer()
    ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    label = train_on_responses_only(None, tokenizer=tokenizer, return_function=True, **options)
    labels = label({"input_ids": ids})["labels"]
    assert all(kept in (IGNORED, token) for kept, token in zip(labels, ids, strict=True))
    # A token may have the marker's last blank and a word's first letters.
    return str(tokenizer.decode([each for each in labels if each != IGNORED])).lstrip(" ")


def test_only_responses_are_learned() -> None:
    assert labelled(TALK) == "Paris.\nThe capital.\n"
    assert labelled(TALK, last_response_only=True) == "The capital.\n"
    assert labelled(TALK[:1]) == ""


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), max_size=4))
def test_whatever_is_said_the_user_is_not_learned(turns: list[tuple[str, str]]) -> None:
    """Unless users write the template's own words, which no mask can tell from the template."""
    turns = [(f"<{q}>", f"({a})") for q, a in turns if ": " not in q + a]
    talk = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    if talk:
        assert labelled(talk) == "".join(f"{answer}\n" for _, answer in turns)


def test_a_data_set_without_responses_is_rejected() -> None:
    rows = SimpleNamespace(map=lambda label, **_: [label({"input_ids": [5, 6]})])
    trainer = SimpleNamespace(processing_class=tiny.tokenizer(), train_dataset=rows)
    with pytest.raises(UsageError, match="No row of the data set has a response"):
        train_on_responses_only(trainer)


def test_sharegpt_becomes_roles_and_contents() -> None:
    row = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
    made = standardize_sharegpt([row])
    assert made[0]["conversations"] == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
    ]
    assert standardize_sharegpt(made) == made
    with pytest.raises(UsageError, match="Unknown role 'robot'"):
        standardize_sharegpt([{"messages": [{"from": "robot", "value": "Hi"}]}])
    with pytest.raises(UsageError, match="Its columns are text"):
        standardize_sharegpt([{"text": "Hi"}])


def test_a_tokenizer_keeps_its_own_template() -> None:
    tokenizer = tiny.tokenizer()
    assert get_chat_template(tokenizer, "llama-3.1").chat_template == tiny.TEMPLATE
    assert get_chat_template(tokenizer, GEMMA).chat_template == GEMMA


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chat_template": "llama-3.1"}, "not one for it"),
        ({"chat_template": "chatml"}, "not one for it"),  # it has no <|im_end|>
        ({"mapping": {"role": "from"}}, "standardize_sharegpt"),
        ({"system_message": "Be brief."}, "system"),
    ],
)
def test_templates_that_would_not_fit_are_rejected(options: dict[str, Any], message: str) -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(UsageError, match=message):
        get_chat_template(tokenizer, **options)
