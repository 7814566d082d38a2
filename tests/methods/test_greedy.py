"""Rows made some at a time, and the search for the loneliest token, choose what the loops choose."""

from __future__ import annotations

import inputs
import pytest
import torch
from test_peers import agree

from gridprune.core.token_map import TokenMap
from gridprune.methods import cdpruner, divprune
from gridprune.methods.ops import greedy

NAMES = ("divprune", "cdpruner", "centered", "centered-cdpruner", "relevance-weighted")


@pytest.mark.parametrize("kind", inputs.KINDS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("whole", [False, True], ids=["panels", "matrix"])
def test_any_way_of_making_rows(name: str, kind: str, whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (cdpruner, divprune):
        monkeypatch.setattr(module, "matrix", lambda x, small=0: x @ x.mT if whole else None)
    monkeypatch.setattr(greedy, "_PANEL", 3)
    monkeypatch.setattr(greedy, "_SEEDS", 2)
    for seed, k in enumerate((1, 2, 7, 29, 30)):
        agree(name, inputs.cues(kind, 2, 30, seed), TokenMap.from_grid(5, 6), k)


def test_few_rows_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    x, made = torch.randn(1, 400, 16, generator=torch.Generator().manual_seed(0)), []
    real = greedy.products
    monkeypatch.setattr(cdpruner, "products", lambda x, tokens: (made.append(tokens.shape[1]), real(x, tokens))[1])
    quality = torch.rand(1, 400, generator=torch.Generator().manual_seed(1))
    cdpruner.dpp_map(x, quality, 12)
    assert 12 <= sum(made) < 200


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_the_loneliest_token(n: int) -> None:
    for seed in range(5):
        x = torch.nn.functional.normalize(torch.randn(2, n, 6, generator=torch.Generator().manual_seed(seed)), dim=-1)
        assert torch.equal(greedy.loneliest(x, None), greedy.loneliest(x, x @ x.mT))
