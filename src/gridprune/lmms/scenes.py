"""The task `gridprune_scenes`: the questions of `gridprune eval` about generated scenes, made in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset, DatasetDict, Features, Image, Value
from lmms_eval.api.task import ConfigurableMessagesTask

from ..eval.data import UNSCORED, generated
from ..eval.scoring import exact


class Scenes(ConfigurableMessagesTask):  # type: ignore[misc]
    """The first questions of a split of the generated scenes; `dataset_kwargs` are those of `generated`."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def download(self, dataset_kwargs: Mapping[str, Any] | None = None) -> None:
        """Make the questions; nothing is fetched."""
        data = generated(**(dataset_kwargs or {}))
        rows = [
            {
                "id": question.id,
                "image": scene.image,
                "question": question.text,
                "answer": question.answers[0],
                "kind": question.kind,
            }
            for scene in data.scenes()
            for question in scene.questions
        ]
        texts = {name: Value("string") for name in ("id", "question", "answer", "kind")}
        made = Dataset.from_list(rows, features=Features({"image": Image(), **texts}))
        self.dataset = DatasetDict({data.name: made})
        self.dataset_no_image = DatasetDict({data.name: made.remove_columns("image")})


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
