"""The Triton kernels choose what the torch beside them chooses: run by Triton's interpreter, which needs no GPU."""

from __future__ import annotations

import os

import inputs
import numpy
import pytest
import torch
from packaging.version import Version

from gridprune.core.token_map import TokenMap
from gridprune.methods import create, vispruner
from gridprune.methods.ops import similarity
from rounding import assert_same

if torch.cuda.is_available():
    pytest.skip("tests/gpu runs the kernels themselves", allow_module_level=True)
os.environ["TRITON_INTERPRET"] = "1"  # read as Triton is imported
triton = pytest.importorskip("triton")
if Version(numpy.__version__) >= Version("2.4"):  # as of Triton 3.6
    pytest.skip("Triton's interpreter fails with numpy 2.4.6", allow_module_level=True)

from gridprune.methods.ops import kernels  # noqa: E402

NAMES = ("eadp", "mmtok", "scope", "tops-stage-one", "vispruner", "apet")


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (similarity, vispruner):
        monkeypatch.setattr(module, "fused", lambda like: kernels)


@pytest.mark.parametrize("kind", ["random", "duplicates"])
@pytest.mark.parametrize("name", NAMES)
def test_the_same_tokens(name: str, kind: str, request: pytest.FixtureRequest) -> None:
    cues, token_map = inputs.cues(kind, 2, 40), inputs.anyres()
    expected = create(name).select(cues, token_map, 9).indices
    request.getfixturevalue("interpreted")
    assert torch.equal(create(name).select(cues, token_map, 9).indices, expected)


def test_more_tokens_than_a_program_looks_at(interpreted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets and tokens in several pieces: cover, gains and picks are those of a loop."""
    for name in ("_WIDE", "_LONG", "_ROWS", "_COLUMNS"):
        monkeypatch.setattr(kernels, name, triton.language.constexpr(8))
    g = torch.Generator().manual_seed(0)
    affinity = torch.randint(0, 1024, (2, 21, 19), generator=g) / 1024  # so that no rise is near rounding
    weight, cover = torch.rand(2, 21, generator=g), torch.zeros(2, 21)
    state, picks = similarity.Coverage(affinity, weight), similarity.Picks(weight[:, :19])
    for _ in range(6):
        expected = (weight.double()[:, None] @ (affinity - cover[..., None]).clamp(min=0).double())[:, 0]
        assert_same(state.gain, expected, terms=21, depth=6)
        best = expected.masked_fill(picks.taken, -1.0).argmax(1)
        token = picks.best(state.gain)
        assert torch.equal(token, best)
        state.add(token)
        cover = cover.maximum(affinity.gather(2, token[:, None, None].expand(-1, 21, 1))[..., 0])
        assert torch.equal(state.cover, cover)
    cosine = similarity.Cosine(torch.randn(2, 60, 8, generator=g), torch.float64)
    tokens = torch.stack([torch.randperm(60, generator=g) for _ in range(2)])
    thinned = vispruner.thin(cosine, tokens, 11, 5)
    monkeypatch.setattr(vispruner, "fused", lambda like: None)
    assert torch.equal(vispruner.thin(cosine, tokens, 11, 5), thinned)


@pytest.mark.parametrize("scores", [[1.0, float("nan"), 2.0], [float("nan")] * 3, [-5.0, -5.0, -6.0], [0.0, 3.0, 3.0]])
def test_the_best_of_odd_scores(scores: list[float], interpreted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    both = [similarity.Picks(torch.zeros(1, 3)), similarity.Picks(torch.zeros(1, 3))]
    values = torch.tensor([scores])
    found = [both[0].best(values).item() for _ in range(2)]
    monkeypatch.setattr(similarity, "fused", lambda like: None)
    assert found == [both[1].best(values).item() for _ in range(2)]
    assert torch.equal(both[0].taken, both[1].taken)


def test_equal_likeness_goes_by_place(interpreted: None) -> None:
    """Exact cosines, most of them equal: what is thrown away is what a stable sort puts first."""
    for seed in range(4):
        cues, token_map = inputs.cues("duplicates", 2, 42, seed), TokenMap.from_grid(6, 7)
        kept = create("vispruner", step=3).select(cues, token_map, 9).indices
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(vispruner, "fused", lambda like: None)
            assert torch.equal(create("vispruner", step=3).select(cues, token_map, 9).indices, kept)
