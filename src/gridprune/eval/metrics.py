"""Rows to numbers: accuracy, retention, evidence recall, and what chance could have made of them.

Definitions
    accuracy        share of all questions answered right; `mean_accuracy` is the mean over the averaged kinds.
    retention       per kind of questions, accuracy divided by that of the unpruned model on the same questions; then
                    the plain mean over kinds. Kinds that the data set leaves out of the mean, and kinds of
                    which the unpruned model answers nothing, are shown but not averaged.
    evidence recall mean over questions with evidence of :func:`gridprune.eval.evidence.recall`.
    intervals       95 %, percentile bootstrap. Whole scenes are resampled, since the questions of one scene share an
                    image; every method and the unpruned model are recomputed on the same resample, so that
                    differences are paired. `against_subject` of a row is its retention less that of `gridprune`.
    FLOPs           of the language model over visual tokens only, L (4 n d^2 + 2 n^2 d + 3 n d m), the convention of
                    the FastV line of papers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..costs import LanguageModel
from ..errors import SettingError
from .entries import FULL

RESAMPLES = 2000
SUBJECT = "gridprune"
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Table:
    """Scores of answers added up by scene and kind.

    Attributes:
        kinds: names, F of them.
        averaged: (F,) bool, which enter the mean over kinds.
        asked: (S, F) questions.
        right: cell -> (S, F) right answers; one that is right in part counts in part.
    """

    kinds: list[str]
    averaged: NDArray[np.bool_]
    asked: Floats
    right: dict[str, Floats]

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], unscored: Sequence[str] = ()) -> Table:
        """Count the rows of a run."""
        kinds = list(dict.fromkeys(question[1] for row in rows for question in row["questions"]))
        place = {kind: i for i, kind in enumerate(kinds)}
        shape = (len(rows), len(kinds))
        asked = np.zeros(shape)
        right = {cell: np.zeros(shape) for cell in rows[0]["answers"]}
        for s, row in enumerate(rows):
            columns = [place[question[1]] for question in row["questions"]]
            np.add.at(asked[s], columns, 1)
            for cell, answers in row["answers"].items():
                np.add.at(right[cell][s], columns, [credit(answer) for answer in answers])
        known = right[FULL].sum(0) > 0
        averaged = known & np.array([kind not in unscored for kind in kinds])
        return cls(kinds, averaged, asked, right)

    def retention(self, cell: str, weights: Floats | None = None) -> Floats:
        """(...,) mean over kinds of accuracy / full accuracy, under weights (..., S) of the scenes (all 1).

        A kind that a resample leaves without a right answer of the unpruned model drops out of that resample's mean.
        """
        weights = np.ones(len(self.asked)) if weights is None else weights
        ours, full = weights @ self.right[cell][:, self.averaged], weights @ self.right[FULL][:, self.averaged]
        known = full > 0
        count = known.sum(-1)
        total = np.divide(ours, full, out=np.zeros_like(ours), where=known).sum(-1)
        mean: Floats = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        return mean

    def accuracy(self, cell: str) -> float:
        """Share of all questions answered right."""
        return float(self.right[cell].sum() / self.asked.sum())

    def by_kind(self, cell: str) -> dict[str, float]:
        """Accuracy of every kind."""
        values = self.right[cell].sum(0) / self.asked.sum(0)
        return {kind: round(float(value), 4) for kind, value in zip(self.kinds, values)}

    def mean_accuracy(self, cell: str) -> float:
        """Mean accuracy over the averaged kinds."""
        values = (self.right[cell].sum(0) / self.asked.sum(0))[self.averaged]
        return float(values.mean()) if len(values) else float("nan")


def credit(answer: Any) -> float:
    """What an answer of a row counts: 1 if it is right, 0 for words, the score of [score, words]."""
    return float(answer[0] if isinstance(answer, list) else answer == 1)


def resamples(scenes: int, count: int = RESAMPLES, seed: int = 0) -> Floats:
    """(count, scenes) how often each resample draws each scene."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(scenes, np.full(scenes, 1 / scenes), size=count).astype(np.float64)


def interval(values: Floats, level: float = 0.95) -> list[float] | None:
    """The central interval that holds `level` of the resamples; None if they are not numbers."""
    if not len(values) or np.isnan(values).any():
        return None
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return [round(float(low), 4), round(float(high), 4)]


def summarise(
    rows: Sequence[Mapping[str, Any]], config: Mapping[str, Any], *, resample_count: int = RESAMPLES
) -> dict[str, Any]:
    """All numbers of a run; a function of its rows and its config only.

    Questions that failed, with whatever method, are left out of all numbers: every method is compared on the same.

    Raises:
        SettingError: every question failed.
    """
    identity = config["identity"]
    failed = {number: reason for row in rows for number, reason in row.get("failed", {}).items()}
    rows = [row for row in rows if row["questions"]]
    if not rows:
        raise SettingError(f"No question could be answered. The first: {next(iter(failed.values()), 'there is none')}")
    table = Table.of(rows, identity["unscored"])
    weights = resamples(len(rows), resample_count)
    averaged = [kind for kind, yes in zip(table.kinds, table.averaged) if yes]
    drawn = {cell: table.retention(cell, weights) for cell in table.right if cell != FULL}
    shape = config["language_model"]
    language_model = LanguageModel(heads=1, kv_heads=1, head_dim=shape["hidden"], **shape)
    result: dict[str, Any] = {
        "model": identity["model"],
        "split": identity["data"],
        "n": int(table.asked.sum()),
        "scenes": len(rows),
        "averaged_kinds": averaged,
        "text_prior": config["text_prior"],
        "full": {
            "accuracy": _round(table.accuracy(FULL)),
            "mean_accuracy": _round(table.mean_accuracy(FULL)),
            "tokens": _mean(rows, "tokens", FULL),
            "kinds": table.by_kind(FULL),
        },
        "rows": [],
        "best_peer": {},
        **({"failed": failed} if failed else {}),
    }
    for method in identity["methods"]:
        for keep in method["keeps"]:
            cell = f"{method['label']}|{keep}"
            result["rows"].append(
                {
                    "method": method["label"],
                    "keep": keep,
                    "accuracy": _round(table.accuracy(cell)),
                    "mean_accuracy": _round(table.mean_accuracy(cell)),
                    "retention": _round(float(table.retention(cell))),
                    "ci": interval(drawn[cell]),
                    "evidence_recall": _mean(rows, "recall", cell),
                    "tokens": _mean(rows, "tokens", cell),
                    "kinds": table.by_kind(cell),
                    "against_subject": _against(table, drawn, cell, f"{SUBJECT}|{keep}"),
                }
            )
    for row in (result["full"], *result["rows"]):
        row["flops"] = round(language_model.flops(row["tokens"]))
    result["best_peer"] = best_peers(table, drawn, identity["methods"], identity["keeps"])
    return result


def best_peers(
    table: Table, drawn: Mapping[str, Floats], methods: Sequence[Mapping[str, Any]], keeps: Sequence[Any]
) -> dict[str, Any]:
    """At every budget the peer of `gridprune` (default settings) with the highest retention, and the paired difference.

    Peers are all deployable methods with a fixed count that do not belong to gridprune itself: no oracle, no ablation,
    no other setting of the same class; pooling and downsampling do count. The best is chosen on the same questions,
    which favours it.
    """
    peers = [method["label"] for method in methods if method["peer"]]
    if not peers or SUBJECT not in [method["label"] for method in methods]:
        return {}
    found = {}
    for keep in keeps:
        best = max(peers, key=lambda label: float(table.retention(f"{label}|{keep}")))
        compared = _against(table, drawn, f"{SUBJECT}|{keep}", f"{best}|{keep}")
        if compared is not None:
            found[str(keep)] = {"method": best, **compared}
    return found


def _against(table: Table, drawn: Mapping[str, Floats], ours: str, theirs: str) -> dict[str, Any] | None:
    """Difference of two cells' retentions and its paired interval; None without the second cell or without numbers."""
    if theirs not in drawn or ours == theirs:
        return None
    difference = float(table.retention(ours)) - float(table.retention(theirs))
    if np.isnan(difference):  # the unpruned model answers nothing right
        return None
    return {"difference": _round(difference), "ci": interval(drawn[ours] - drawn[theirs])}


def _mean(rows: Sequence[Mapping[str, Any]], name: str, cell: str) -> float | None:
    """Mean over questions of what a row holds per question (or once for all of them); absent values do not count."""
    total, count = 0.0, 0
    for row in rows:
        values = row[name][cell]
        for value in values if isinstance(values, list) else [values] * len(row["questions"]):
            if value is not None:
                total, count = total + value, count + 1
    return round(total / count, 4) if count else None


def _round(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 4)
