"""Prompts are written as the checkpoint's own template writes them; the reference is transformers' own way to ids."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import DynamicCache, PaliGemmaProcessor

from gridprune import GridPrune, prune
from gridprune.compat import CACHE
from gridprune.cues.chat import conversation, prompt_text, question_in
from gridprune.errors import CheckpointError, UnsupportedCallError
from gridprune.eval.decode import prompt_parts
from gridprune.runtime import Loaded, answer, load, prepare

IMAGE = Image.new("RGB", (192, 192), "teal")
HISTORY = [("is there a red dog?", "no")]
WITH_BOS = (  # the beginning of a text is written, as Gemma's and Mistral's templates do
    "{{ bos_token }}{% for m in messages %}{% for c in m.content %}{% if c.type == 'image' %}<image>{% else %}"
    " {{ c.text }}{% endif %}{% endfor %}{{ '</s>' if m.role == 'assistant' else '<ans>' }}{% endfor %}"
)
TEXT_ONLY = (  # contents are texts
    "{% for m in messages %}{{ m.role + ' ' + m.content }}"
    "{{ '</s>' if m.role == 'assistant' else '<ans>' }}{% endfor %}"
)


@pytest.fixture
def loaded() -> Loaded:
    """A model of its own: tests take its chat template away."""
    return load()


def stock(loaded: Loaded, template: str, question: str, history: Any = ()) -> list[int]:
    """Ids by transformers' own way from messages to tensors."""
    turns = conversation(question, history)
    turns[0]["content"][0]["image"] = IMAGE
    return loaded.processor.apply_chat_template(  # type: ignore[no-any-return]
        turns, chat_template=template, add_generation_prompt=True, tokenize=True, return_dict=True
    )["input_ids"][0]


def ids_of(loaded: Loaded, way: str, question: str) -> list[int]:
    if way == "ask":
        return prepare(loaded, IMAGE, question)["input_ids"][0].tolist()  # type: ignore[no-any-return]
    image = loaded.model.config.image_token_id
    front, behind = prompt_parts(loaded.processor, question, image)
    return [*front, *[image] * 576, *behind]


@pytest.mark.parametrize("way", ["ask", "eval"])
@pytest.mark.parametrize("place", ["processor", "tokenizer"])
@pytest.mark.parametrize("bos", [True, False])
def test_ids_are_those_of_transformers_wherever_the_template_stands(
    loaded: Loaded, way: str, place: str, bos: bool
) -> None:
    template = WITH_BOS if bos else WITH_BOS.removeprefix("{{ bos_token }}")
    loaded.processor.chat_template, loaded.processor.tokenizer.chat_template = None, None
    side = loaded.processor if place == "processor" else loaded.processor.tokenizer
    side.chat_template = template
    expected = [int(i) for i in stock(loaded, template, "what color is the dog?")]
    assert expected.count(loaded.processor.tokenizer.bos_token_id) == 1
    assert ids_of(loaded, way, "what color is the dog?") == expected


def test_a_template_for_text_gets_the_placeholder_among_the_words(loaded: Loaded) -> None:
    loaded.processor.chat_template, loaded.processor.tokenizer.chat_template = None, TEXT_ONLY
    text = prompt_text(loaded.processor, conversation("what is red?", HISTORY))
    assert text == "user <image>\nis there a red dog?<ans>assistant no</s>user what is red?<ans>"


def test_without_any_template_a_prompt_is_refused_not_invented(loaded: Loaded) -> None:
    loaded.processor.chat_template = loaded.processor.tokenizer.chat_template = None
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja"):
        prepare(loaded, IMAGE, "what is red?")


def test_paligemma_was_never_taught_to_chat_and_gets_the_words_alone() -> None:
    processor = PaliGemmaProcessor.__new__(PaliGemmaProcessor)
    processor.tokenizer, processor.image_token, processor.chat_template = SimpleNamespace(), "<image>", None
    assert prompt_text(processor, conversation("what is red?")) == "<image>what is red?"
    with pytest.raises(UnsupportedCallError, match="history"):
        prompt_text(processor, conversation("what is red?", HISTORY))


def test_question_in_messages_is_the_last_that_a_user_asks() -> None:
    shown = {"role": "user", "content": [{"type": "image"}]}
    tool = {"role": "tool", "content": [{"type": "text", "text": "found"}, {"type": "image"}]}
    assert question_in([*conversation("why?", HISTORY), tool, shown]) == "why?"
    assert question_in([shown]) == ""


def test_a_conversation_sent_again_is_guided_by_what_it_asks_last(loaded: Loaded) -> None:
    """By every way to the model: `ask` from the messages, `prune` from the ids alone."""
    question, method = "what color is the dog?", GridPrune(keep=8)
    given = answer(loaded, IMAGE, question, method, history=HISTORY, max_new_tokens=1)
    inputs = prepare(loaded, IMAGE, question, HISTORY)
    with prune(loaded.model, method, processor=loaded.processor, clip=loaded.clip) as pruning:
        loaded.model.generate(**inputs, max_new_tokens=1, do_sample=False)
    assert given.report is not None
    assert given.report.question == question
    assert pruning.reports[-1].question.split() == [
        "what",
        "color",
        "is",
        "the",
        "dog",
        "?",
    ]  # as the tokenizer decodes
    assert torch.equal(given.report.kept_indices, pruning.reports[-1].kept_indices)


def test_a_cache_keeps_what_was_chosen_for_an_earlier_question(loaded: Loaded) -> None:
    first, later = prepare(loaded, IMAGE, "is there a red dog?"), prepare(loaded, IMAGE, "is there a cat?", HISTORY)
    cache = DynamicCache(config=loaded.model.config.get_text_config())
    with prune(loaded.model, GridPrune(keep=8), processor=loaded.processor, clip=loaded.clip) as pruning:
        for inputs in (first, later):
            loaded.model.generate(**inputs, max_new_tokens=1, do_sample=False, **{CACHE: cache})
    assert [report.question for report in pruning.reports] == ["is there a red dog ?"]
