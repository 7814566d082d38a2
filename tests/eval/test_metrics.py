"""Numbers against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from gridprune.eval.metrics import Table, best_peers, interval, resamples, summarise


def scene(number, kinds, full, **cells):
    questions = [[f"{number}-{i}", kind, "?", "yes"] for i, kind in enumerate(kinds)]
    answers = {"full": full, **cells}
    return {
        "scene": number,
        "questions": questions,
        "answers": answers,
        "recall": {cell: [0.5, None, 1.0][: len(kinds)] for cell in answers},
        "tokens": dict.fromkeys(answers, 64),
    }


ROWS = [
    scene(0, ["a", "a", "b"], [1, 1, 1], **{"m|64": [1, "no", 1], "gridprune|64": [1, 1, 1]}),
    scene(1, ["a", "a", "b"], [1, "no", "no"], **{"m|64": ["no", "no", "no"], "gridprune|64": [1, 1, "no"]}),
]
METHODS = [
    {"label": "m", "settings": {}, "keeps": [64], "peer": True},
    {"label": "gridprune", "settings": {}, "keeps": [64], "peer": False},
]
CONFIG = {
    "identity": {"model": "x", "data": "dev", "methods": METHODS, "keeps": [64], "unscored": []},
    "text_prior": None,
    "language_model": {"layers": 2, "hidden": 8, "mlp": 16},
}


def test_accuracy_and_retention():
    table = Table.of(ROWS)
    assert table.accuracy("full") == pytest.approx(4 / 6)
    assert table.by_kind("m|64") == {"a": 0.25, "b": 0.5}
    # a: 1 of 4 against 3 of 4; b: 1 of 2 against 1 of 2
    assert float(table.retention("m|64")) == pytest.approx((1 / 3 + 1) / 2)
    assert float(table.retention("gridprune|64")) == pytest.approx((4 / 3 + 1) / 2)
    assert float(table.retention("full")) == 1.0


def test_unscored_and_hopeless_families_are_not_averaged():
    rows = [scene(0, ["a", "b", "c"], [1, 1, "no"], **{"m|64": [1, "no", 1]})]
    table = Table.of(rows, ["b"])
    assert table.averaged.tolist() == [True, False, False]
    assert float(table.retention("m|64")) == 1.0
    none = Table.of([scene(0, ["a"], ["no"], **{"m|64": [1]})])
    assert np.isnan(float(none.retention("m|64")))


def test_weights_count_scenes():
    table = Table.of(ROWS)
    weights = np.array([[2.0, 0.0], [0.0, 2.0]])
    # scene 0 twice: a 1/2, b 1; scene 1 twice: a 0/1, b has no right answer of the full model and drops out
    assert table.retention("m|64", weights).tolist() == [0.75, 0.0]


def test_bootstrap_is_reproducible_and_covers():
    assert (resamples(7) == resamples(7)).all()
    assert (resamples(7).sum(1) == 7).all()
    generator = np.random.default_rng(1)
    weights, hits, trials, truth = resamples(60, 400), 0, 200, 0.8
    for _ in range(trials):
        # scenes share their luck: between them the rate varies, so that resampling questions would be too sure
        rate = np.clip(generator.normal(truth, 0.1, 60), 0, 1)
        right = generator.binomial(10, rate).astype(float)
        low, high = interval(weights @ right / (weights.sum(1) * 10))
        hits += low <= truth <= high
    assert 0.88 <= hits / trials <= 0.99


def test_interval_of_undefined_is_none():
    assert interval(np.array([0.5, np.nan])) is None


def test_best_peer_is_paired_and_never_ourselves():
    table = Table.of(ROWS)
    drawn = {cell: table.retention(cell, resamples(2, 50)) for cell in ("m|64", "gridprune|64")}
    peer = best_peers(table, drawn, METHODS, [64])["64"]
    assert peer["method"] == "m"
    assert peer["difference"] == round(7 / 6 - 2 / 3, 4)
    assert best_peers(table, drawn, METHODS[1:], [64]) == {}


def test_summary_contract():
    found = summarise(ROWS, CONFIG, resample_count=50)
    assert {"model", "split", "n", "full", "rows"} <= set(found)
    row = found["rows"][0]
    assert {"method", "keep", "accuracy", "retention", "ci", "evidence_recall", "kinds"} <= set(row)
    assert (found["n"], found["scenes"]) == (6, 2)
    assert row["evidence_recall"] == 0.75
    assert row["against_subject"]["difference"] == round(2 / 3 - 7 / 6, 4)
    assert found["rows"][1]["against_subject"] is None
    assert row["tokens"] == 64
    assert found == summarise(ROWS, CONFIG, resample_count=50)
