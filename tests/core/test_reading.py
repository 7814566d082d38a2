"""Readings of relevance against loops over fractions, and methods against what they make of relevance read by hand."""

import random
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from gridprune.core.reading import READINGS, read
from gridprune.core.token_map import TokenMap
from gridprune.methods import Cues, create, get
from gridprune.methods.guided import Guided
from gridprune.methods.registry import BUILT_IN

GUIDED = sorted(name for name in BUILT_IN if issubclass(get(name), Guided))
GRID = TokenMap.from_grid(4, 4)


def by_hand(values, reading, saliency):
    """One image's cosines, read; multiples of 1/64 and a power of two of tokens, so that no mean is rounded."""
    values = [Fraction(v) for v in values]
    mean = sum(values) / len(values)
    if reading == "both":
        return [float(abs(v - mean)) for v in values]
    around = sum(map(Fraction, saliency)) / len(values)
    together = sum((v - mean) * (Fraction(s) - around) for v, s in zip(values, saliency))
    turned = reading == "minus" or (reading == "agree" and together < 0)
    return [float(-v if turned else v) for v in values]


def random_images(rng, images=3, n=16):
    relevance = [[rng.randint(-64, 64) / 64 for _ in range(n)] for _ in range(images)]
    saliency = [[rng.randint(0, 64) / 64 for _ in range(n)] for _ in range(images)]
    return relevance, saliency


@pytest.mark.parametrize("reading", READINGS)
def test_equals_the_loops(reading):
    rng = random.Random(3)
    for _ in range(50):
        relevance, saliency = random_images(rng)
        found = read(torch.tensor(relevance), reading, torch.tensor(saliency))
        assert found.tolist() == [by_hand(r, reading, s) for r, s in zip(relevance, saliency)]


def test_what_agrees_with_nothing_is_read_as_it_is():
    relevance = torch.tensor([[0.5, -0.5, 0.25, -0.25], [0.5, -0.5, 0.25, -0.25]])
    saliency = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.5, 0.5, 0.0, 0.0]])  # flat; uncorrelated
    assert torch.equal(read(relevance, "agree", saliency), relevance)


@pytest.mark.parametrize("name", GUIDED)
def test_methods_read_what_their_setting_says(name):
    """A method told how to read keeps what it keeps, read as plus, of cosines that were read by hand."""
    rng, seen = random.Random(5), set()
    normal = torch.Generator().manual_seed(0)
    settings = {"importance": "relevance"} if "importance" in get(name).__dataclass_fields__ else {}
    for _ in range(6):
        relevance, saliency = random_images(rng)
        words = [random_images(rng, images=4)[0] for _ in relevance]
        cues = Cues(
            relevance=torch.tensor(relevance),
            saliency=torch.tensor(saliency),
            word_relevance=torch.tensor(words),
            word_mask=torch.ones(3, 4, dtype=torch.bool),
            features=torch.randn(3, 16, 8, generator=normal),
            tower_features=torch.randn(3, 16, 8, generator=normal),
        )
        for reading in READINGS:
            rows = [by_hand(r, reading, s) for r, s in zip(relevance, saliency)]
            by_word = [[by_hand(w, reading, s) for w in image] for image, s in zip(words, saliency)]
            ready = replace(cues, relevance=torch.tensor(rows), word_relevance=torch.tensor(by_word))
            expected = create(name, reading="plus", **settings).select(ready, GRID, 5).indices
            assert torch.equal(create(name, reading=reading, **settings).select(cues, GRID, 5).indices, expected)
            if create(name).reading == "tower":
                told = replace(cues, reading=reading)
                assert torch.equal(create(name, **settings).select(told, GRID, 5).indices, expected)
            assert create(name, reading=reading, **settings).needs <= cues.tensors().keys()
            seen.add((reading, str(expected.tolist())))
    assert len({kept for _, kept in seen}) > 12  # the readings differ


@pytest.mark.parametrize("name", GUIDED)
def test_agreement_needs_saliency(name):
    settings = {"importance": "relevance"} if "importance" in get(name).__dataclass_fields__ else {}
    assert {"relevance", "saliency"} <= create(name, reading="agree", **settings).needs
