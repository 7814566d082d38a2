"""The generated data set: examples of a split, in a fixed order, several questions to a scene."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from .forms import FORMS, LLAVA
from .questions import balanced, template_prior
from .scenes import SPLIT_SEED, Box, make_scene

PRIOR_SCENES = 1680  # a multiple of every answer set's size


@dataclass(frozen=True)
class Example:
    """One question about one scene; ``boxes`` are its evidence in pixels, ``scene`` numbers the image."""

    id: str
    image: Image.Image
    question: str
    answer: str
    kind: str
    boxes: tuple[Box, ...]
    scene: int


def iter_examples(
    split: str, n_questions: int, *, seed: int | None = None, form: str = LLAVA.name
) -> Iterator[Example]:
    """First ``n_questions`` of a split; questions of one scene are consecutive and share its image.

    ``seed`` gives another, equally distributed set of scenes. ``form`` is ``"llava"`` (192 px, 576 tokens)
    or ``"next"`` (384 px, 2880 tokens).
    """
    if split not in SPLIT_SEED:
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SPLIT_SEED)}")
    if form not in FORMS:
        raise ValueError(f"unknown form {form!r}; choose one of {', '.join(FORMS)}")
    done, index = 0, 0
    while done < n_questions:
        scene = make_scene(split, index, seed=seed or 0, form=FORMS[form])
        image = scene.image
        for number, question in enumerate(balanced(scene)[: n_questions - done]):
            name = f"{split}-{seed or 0}-{index}-{number}"
            yield Example(name, image, question.text, question.answer, question.kind, question.boxes, index)
            done += 1
        index += 1


def text_prior(split: str, *, seed: int | None = None, form: str = LLAVA.name) -> dict[str, float]:
    """Accuracy by kind of the majority answer of each question template: what text alone can give."""
    scenes = (make_scene(split, i, seed=seed or 0, form=FORMS[form]) for i in range(PRIOR_SCENES))
    return template_prior(question for scene in scenes for question in balanced(scene))
