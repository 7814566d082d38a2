"""Tasks of the questions of `gridprune eval` about generated scenes, made in memory: one per group of kinds.

gridprune_vqa           what is there, of what colour, how many
gridprune_text          text is read
gridprune_grounding     where something is; answers name a region or a side, not a box
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from datasets import Dataset, DatasetDict, Features, Image, Value
from lmms_eval.api.task import ConfigurableMessagesTask

from ..eval.data import UNSCORED, generated
from ..eval.scoring import exact
from ..tiny.questions import PLACES

TEXT = frozenset({"reading", "page"})  # kinds; pages are of the model in training
_AT_MOST = 100  # questions looked through for each that is taken


class Scenes(ConfigurableMessagesTask):  # type: ignore[misc]
    """The first questions of one group in a split of the generated scenes."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def download(self, dataset_kwargs: Mapping[str, Any] | None = None) -> None:
        """Make the questions; nothing is fetched. `dataset_kwargs`: group, split, questions."""
        asked = dict(dataset_kwargs or {})
        group, questions = asked["group"], asked["questions"]
        data = generated(asked["split"], questions * _AT_MOST)
        rows = (
            {
                "id": question.id,
                "image": scene.image,
                "question": question.text,
                "answer": question.answers[0],
                "kind": question.kind,
            }
            for scene in data.scenes()
            for question in scene.questions
            if group_of(question.kind) == group
        )
        texts = {name: Value("string") for name in ("id", "question", "answer", "kind")}
        made = Dataset.from_list(list(islice(rows, questions)), features=Features({"image": Image(), **texts}))
        self.dataset = DatasetDict({data.name: made})
        self.dataset_no_image = DatasetDict({data.name: made.remove_columns("image")})


def group_of(kind: str) -> str:
    """The task that asks a kind of question."""
    return "grounding" if kind in PLACES else "text" if kind in TEXT else "vqa"


def image(document: Mapping[str, Any]) -> list[Any]:
    """What the question is about."""
    return [document["image"]]


def score(document: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Exact match, as `gridprune eval` has it for generated scenes."""
    right = exact(results[0], [document["answer"]])
    return {"accuracy": right, "mean_accuracy": {"kind": document["kind"], "right": right}}


def mean_over_kinds(items: Sequence[Mapping[str, Any]]) -> float:
    """Mean of the kinds' accuracies, those left out of the mean excepted."""
    kinds: dict[str, list[float]] = {}
    for item in items:
        if item["kind"] not in UNSCORED:
            kinds.setdefault(item["kind"], []).append(item["right"])
    return sum(sum(right) / len(right) for right in kinds.values()) / len(kinds)
