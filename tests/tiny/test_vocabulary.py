"""What the embedded model reads of a question: capitals, and words that it does not know."""

from __future__ import annotations

import pytest

from gridprune.errors import QuestionError
from gridprune.runtime import load
from gridprune.tiny import iter_examples
from gridprune.tiny.vocabulary import check_known, encode
from training.boxes.export import build_tokenizer


@pytest.fixture(scope="module")
def tokenizers():
    """Those that are packaged, and the one that the exporter builds."""
    loaded = load()
    return [loaded.processor.tokenizer, loaded.clip.tokenizer, build_tokenizer(close=False)]


@pytest.mark.parametrize(
    ("typed", "known"),
    [
        ("WHAT COLOR IS THE CARD BEHIND THE DOG?", "what color is the card behind the dog?"),
        ("IS THERE A DOG?", "is there a dog?"),
        ("Is There an Apple?", "is there an apple?"),
        (
            "WHICH OBJECT IS IN THE PICTURE? A DOG B CAT C CAR D BUS",
            "Which object is in the picture? A dog B cat C car D bus",
        ),
    ],
)
def test_capitals_do_not_matter(tokenizers, typed, known):
    for tokenizer in tokenizers:
        ids = tokenizer(typed, add_special_tokens=False)["input_ids"]
        assert ids == tokenizer(known, add_special_tokens=False)["input_ids"]
        assert ids == encode(typed)
        assert tokenizer.unk_token_id not in ids
    check_known(typed)


def test_letters_of_options_are_not_the_article(tokenizers):
    for tokenizer in tokenizers:
        assert tokenizer.convert_tokens_to_ids("A") != tokenizer.convert_tokens_to_ids("a")
        ids = tokenizer("Is it a dog? A yes B no", add_special_tokens=False)["input_ids"]
        assert ids.count(tokenizer.convert_tokens_to_ids("A")) == 1


def test_every_generated_question_is_known(tokenizers):
    for example in iter_examples("dev", 300):
        check_known(example.question)
        assert tokenizers[0](example.question, add_special_tokens=False)["input_ids"] == encode(example.question)


def test_unknown_words_are_named_with_close_ones():
    with pytest.raises(QuestionError, match=r"does not know 'colour' \('color'\?\), 'zebra'\. It"):
        check_known("What colour is the zebra, the zebra?")
    with pytest.raises(QuestionError, match=r"know 'count'\. It"):
        check_known("count the frogs")
    with pytest.raises(QuestionError) as caught:
        check_known("w" * 5000 + " word" + " ".join(map(str, range(1000, 1500))))
    assert len(str(caught.value)) < 700
