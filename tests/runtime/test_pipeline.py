"""A pipeline of transformers around a model that is pruned, against `model.generate` by hand."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from transformers import pipeline

from gridprune import GridPrune, prune
from gridprune.runtime import load
from gridprune.runtime.ask import prepare_batch

SCENE = Path(__file__).resolve().parents[2] / "examples" / "scene.png"
QUESTIONS = ("What does the blue sign say?", "How many dogs are there?")


def test_equals_generate_by_hand():
    kwargs = {"num_beams": 2, "min_new_tokens": 5, "max_new_tokens": 6}
    loaded, image = load(), Image.open(SCENE)
    answering = pipeline("image-text-to-text", model=loaded.model, processor=loaded.processor, device="cpu")
    chats = [
        [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": question}]}]
        for question in QUESTIONS
    ]
    loaded.processor.tokenizer.padding_side = "left"  # as the pipeline's rows are padded

    def asked() -> list[list[int]]:
        found = answering(chats, batch_size=2, generate_kwargs=dict(kwargs), return_tensors=True)
        return [one["generated_token_ids"].tolist() for (one,) in found]

    def by_hand() -> list[list[int]]:
        inputs = prepare_batch(loaded, [image] * 2, QUESTIONS)
        return loaded.model.generate(**inputs, **kwargs).tolist()

    full = by_hand()
    with prune(loaded.model, GridPrune(keep=3), processor=loaded.processor, clip=loaded.clip) as pruning:
        found = asked()
        reports = list(pruning.reports)
        assert found == by_hand()
    assert [(one.kept, one.question) for one in reports] == [
        (3, "what does the blue sign say ?"),
        (3, "how many dogs are there ?"),
    ]
    assert found != full
    assert asked() == full
