"""The question of each picture, read from prompts of many chat templates."""

from __future__ import annotations

import pytest
import torch

from gridprune.cues.question import QuestionReader, clean, strip_format
from gridprune.errors import QuestionError

from .words import TEMPLATES, processor, tokenizer


def user(text, pictures=0):
    return {"role": "user", "content": [{"type": "image"}] * pictures + [{"type": "text", "text": text}]}


def assistant(text):
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def system(text):
    return {"role": "system", "content": [{"type": "text", "text": text}]}


def read(template, *conversations, hand=None, placeholders=3):
    """Questions of a left-padded batch of conversations, every picture standing for several placeholders."""
    made = processor(template)
    words, image = tokenizer(), tokenizer().convert_tokens_to_ids("<image>")
    texts = hand or [
        made.apply_chat_template(list(turns), add_generation_prompt=True, tokenize=False) for turns in conversations
    ]
    rows = [words(text, add_special_tokens=False)["input_ids"] for text in texts]
    rows = [[token for token in row for _ in range(placeholders if token == image else 1)] for row in rows]
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    pictures = []
    for number, row in enumerate(ids):
        runs = (row == image).nonzero()[:, 0].split(placeholders)
        pictures += [(number, run) for run in runs if len(run)]
    return QuestionReader(made).read(ids, pictures)


@pytest.fixture(params=TEMPLATES, ids=str)
def template(request):
    return TEMPLATES[request.param]


def test_one_turn(template):
    assert read(template, [user("What is red?", 1)]) == ["What is red?"]


def test_several_turns(template):
    turns = [user("What is red?", 1), assistant("The ball is."), user("And blue?", 1), assistant("None."), user("Why?")]
    assert read(template, turns) == ["What is red?", "And blue?"]


def test_several_pictures_of_one_turn(template):
    assert read(template, [user("What differs?", 2)]) == ["What differs?"] * 2


def test_batch(template):
    assert read(template, [user("One?", 1)], [user("A longer two?", 1)]) == ["One?", "A longer two?"]


def test_another_system_prompt_than_the_default():
    for name in ("chatml", "llama3", "vicuna"):
        turns = [system("Be brief, and kind."), user("What is red?", 1)]
        assert read(TEMPLATES[name], turns) == ["What is red?"], name


def test_picture_without_words_takes_the_next_question(template):
    turns = [user("", 1), assistant("I see."), user("What is red?")]
    assert read(template, turns) == ["What is red?"]


def test_answer_format_is_no_part_of_the_question(template):
    asked = "What is red?\nAnswer the question using a single word or phrase."
    assert read(template, [user(asked, 1)]) == ["What is red?"]


@pytest.mark.parametrize(
    "text",
    [
        "USER: <image>\nWhat is red? ASSISTANT:",
        "A chat. USER: <image>\nWhat is red? ASSISTANT:",
        "[INST] <image>\nWhat is red? [/INST]",
        "<|im_start|>user\n<image>What is red?<|im_end|>\n<|im_start|>assistant\n",
        "<image>What is red?",
    ],
)
def test_prompts_written_by_hand(text):
    assert read(None, hand=[text]) == ["What is red?"]


def test_white_space_and_format_are_cleaned():
    assert clean("  What\n is   red? ") == "What is red?"
    assert strip_format("Answer the question using a single word or phrase.") != ""


def test_template_is_rendered_once():
    made, calls = processor(TEMPLATES["vicuna"]), []
    inner = made.apply_chat_template
    made.apply_chat_template = lambda *a, **k: calls.append(1) or inner(*a, **k)
    reader = QuestionReader(made)
    assert reader.templates is reader.templates
    assert len(calls) == 1


def test_error_is_typed():
    assert issubclass(QuestionError, ValueError)
