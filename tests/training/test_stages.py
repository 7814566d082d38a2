"""The training of the embedded model, in seconds: captions, losses, resumption, export, one command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gridprune.tiny.draws import Draws
from training.captions import LIMIT, caption
from training.clip import CLIP, normalise
from training.embedded.loading import EmbeddedWeightsError, load, tower_prefix, write_standard
from training.embedded.questions import balanced
from training.embedded.scenes import make_scene
from training.embedded.vocabulary import NOUNS, UNK, WORDS, encode
from training.export import build_tokenizer
from training.gates import ladder
from training.joint import FEWEST, PATCHES, JointModel, Projector, features, lengths_of, places_of, train_imaged
from training.lm import answer_loss
from training.optim import descend, make_optimizers
from training.packing import pack
from training.recipe import Recipe, extended, gpu, small, train, trained_clip, trained_joint
from training.symbolic import SymbolicLM, Symbolised, train_symbolic
from training.tower import Captioned, contrastive, train_tower
from training.truth import SUBJECTS, cells, facts


def quiet(line: str) -> None:
    """Report nothing."""


def test_captions_name_only_what_is_there() -> None:
    names = {
        form: label for label, noun in enumerate(NOUNS, 1) for name in noun.names for form in (name, noun.plural(name))
    }
    for index in range(60):
        scene = make_scene("train", index)
        text = caption(scene, Draws(0, index))
        assert len(encode(text)) <= LIMIT
        assert UNK not in encode(text), text
        there = {item.label for item in scene.items}
        for word in text.replace(",", " ").split():
            assert word not in names or names[word] in there, text
            assert word not in WORDS or 1 + len(NOUNS) + WORDS.index(word) in there, text


def test_truth_agrees_with_the_scene() -> None:
    """Facts of three subjects by hand from the items; the cells of an item carry its label."""
    for index in (0, 1, 4):
        scene = make_scene("dev", index)
        known, places = facts(scene)
        truth = cells(scene)
        for item in scene.items:
            x, y = item.center
            assert truth.label[y // 8, x // 8] == item.label
            alike = [other for other in scene.items if other.label == item.label]
            assert known[item.label, 0] == len(alike)
            if len(alike) == 1:
                assert known[item.label, 1] == item.color
                torch.testing.assert_close(places[item.label], torch.tensor([y, x]) / 192)
    assert SUBJECTS[encode("puppies")[0]] == SUBJECTS[encode("dog")[0]] == 6


def test_the_towers_learn_captions_and_see_nothing_else() -> None:
    """The caption loss of a batch falls; a batch is patches, their numbers and captions, and no more."""
    recipe = small()
    batch = Captioned(recipe.tower_training, 0)[0]
    assert [part.dtype for part in batch] == [torch.uint8, torch.int64, torch.int64]
    patches, index, ids = batch
    torch.manual_seed(0)
    clip = CLIP(recipe.tower)
    optimizers = make_optimizers(clip, muon_lr=0.02, adam_lr=2e-3)
    losses = []
    for _ in range(12):
        loss = contrastive(clip, normalise(patches), index, ids)
        descend(clip, optimizers, loss, 1.0)
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_the_language_model_learns_answers_from_symbols() -> None:
    recipe = small()
    chosen, text, known, places = Symbolised(recipe.symbolic, 0)[0]
    torch.manual_seed(0)
    model = SymbolicLM(recipe.lm)
    optimizers = make_optimizers(model, muon_lr=0.02, adam_lr=3e-3)
    losses = []
    for _ in range(25):
        logits, after = model.lm.states(model.symbols(model.lm.embed.weight, chosen), text)
        loss = answer_loss(logits, text.target)
        descend(model, optimizers, loss + 0.1 * model.probe_loss(after, text, known, places), 1.0)
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def _tower(out: Path, stop: int | None) -> torch.nn.Module:
    recipe = small()
    return train_tower(out, recipe.tower_training, recipe.tower, seed=1, stop=stop, report=quiet)


def _symbolic(out: Path, stop: int | None) -> torch.nn.Module:
    recipe = small()
    return train_symbolic(out, recipe.symbolic, recipe.lm, seed=1, stop=stop, report=quiet)


def _joint(out: Path, stop: int | None) -> torch.nn.Module:
    recipe = small()
    torch.manual_seed(5)
    clip, symbolic = CLIP(recipe.tower), SymbolicLM(recipe.lm)
    model = JointModel(Projector(recipe.tower.width, recipe.lm.width), symbolic)
    return train_imaged(out, recipe.joint, clip, model, seed=1, name="joint", stop=stop, report=quiet)


@pytest.mark.parametrize("stage", [_tower, _symbolic, _joint])
def test_a_killed_stage_resumes_to_the_same_weights(
    tmp_path: Path, stage: Callable[[Path, int | None], torch.nn.Module]
) -> None:
    """Killed after three of four steps, one step behind the last checkpoint, while the next one was being written."""
    whole = stage(tmp_path / "whole", None).state_dict()
    stage(tmp_path / "killed", 3)
    (tmp_path / "killed" / "state.partial").write_bytes(b"half of a checkpoint")
    resumed = stage(tmp_path / "killed", None).state_dict()
    assert whole.keys() == resumed.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


def test_prompt_lengths_and_places_are_chance_alone() -> None:
    rng = np.random.default_rng(0)
    drawn = np.concatenate([lengths_of(8, 50, 0, rng) for _ in range(400)])
    assert drawn.min() == FEWEST
    assert drawn.max() == PATCHES
    assert 0.4 < (drawn <= 68).mean() < 0.8  # half of a log-uniform draw lies under the geometric mean
    often = np.concatenate([lengths_of(8, 50, 40, rng) for _ in range(400)])
    assert 0.16 < (often == PATCHES).mean() < 0.33  # half of the batches: the first image, and 40 % of the others
    counts = np.zeros(PATCHES)
    for _ in range(3000):
        index = places_of(64, rng)
        assert (np.diff(index) > 0).all()
        counts[index] += 1
    assert counts.min() > 0.6 * counts.mean()
    assert counts.max() < 1.5 * counts.mean()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    train(out, small(), seed=0, stages=("tower", "symbolic", "projector", "joint", "full", "export"), report=quiet)
    return out


def test_the_exported_model_answers_as_the_trained_one(trained: Path) -> None:
    """Stock LLaVA on stock-processed images against the lean modules; weights were rounded to bf16."""
    loaded = load(trained / "weights")
    clip, model = trained_clip(trained, small()), trained_joint(trained, small(), "full")
    for module in (clip, model.lm):
        module.bfloat16().float()
    scene = make_scene("dev", 0)
    for question in balanced(scene)[:3]:
        inputs = loaded.processor(images=scene.image, text=f"<image>{question.text}<ans>", return_tensors="pt")
        text = pack([[question]], 40)
        with torch.no_grad():
            stock = loaded.model(**inputs).logits[0, -1]
            states = features(clip, torch.from_numpy(scene.pixels)[None])
            lean = model.lm(model.projector(states), text)[0, (text.target[0] >= 0).nonzero()[0, 0]]
        torch.testing.assert_close(stock, lean, atol=0.02 * lean.abs().max().item(), rtol=0)


def test_the_tower_is_stored_once_and_shared(trained: Path, tmp_path: Path) -> None:
    weights = trained / "weights"
    loaded = load(weights)
    prefix = tower_prefix(loaded.model)
    stored = load_file(weights / "llava" / "model.safetensors")
    assert stored
    assert not [name for name in stored if "vision" in name]
    ours, clips = loaded.model.state_dict(), loaded.clip.state_dict()
    shared = [name for name in ours if name.startswith(prefix)]
    assert shared
    for name in shared:
        assert torch.equal(ours[name], clips["vision_model." + name.removeprefix(prefix)]), name
    stock = type(loaded.model).from_pretrained(write_standard(tmp_path / "llava", weights), dtype=torch.float32)
    assert all(torch.equal(tensor, stock.state_dict()[name]) for name, tensor in ours.items())


def test_a_damaged_file_is_named(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(EmbeddedWeightsError, match=r"checksums\.json is missing"):
        load(tmp_path)


def test_the_tokenizer_is_the_vocabulary() -> None:
    tokenizer = build_tokenizer(close=False)
    texts = [q.text for i in range(12) for q in balanced(make_scene("dev", i))]
    for text in [*texts, "IS THERE A DOG?", "What's the Colour of the puppy's card", "A. red B) blue", "CENTRE, pics"]:
        assert tokenizer(text).input_ids[1:] == encode(text), text


@pytest.mark.parametrize("recipe", [Recipe(), gpu()], ids=["cpu", "gpu"])
def test_the_weights_of_a_recipe_fit_into_the_package(recipe: Recipe) -> None:
    parts = (CLIP(recipe.tower), SymbolicLM(recipe.lm).lm, Projector(recipe.tower.width, recipe.lm.width))
    assert 2 * sum(p.numel() for part in parts for p in part.parameters()) < 25e6


def test_a_ladder_has_every_selection_kind_and_budget(trained: Path) -> None:
    model, clip = trained_joint(trained, small(), "full"), trained_clip(trained, small())
    result = ladder(model, clip, 5, budgets=(64,), report=quiet)
    assert result["questions"] == sum(len(balanced(make_scene("dev", i))) for i in range(5))
    assert {"random", "cls", "relevance", "oracle", "all"} <= set(result["accuracy"])
    assert {field for cell in result["accuracy"]["cls"].values() for field in cell} >= {"mean", "count", "page"}
    assert result["recall"]["random"]["all"] < 0.3


def test_a_folder_belongs_to_one_recipe(tmp_path: Path) -> None:
    train(tmp_path, small(), seed=0, stages=(), report=quiet)
    with pytest.raises(ValueError, match="another recipe or seed"):
        train(tmp_path, extended(small(), joint=9), seed=0, stages=(), report=quiet)
    with pytest.raises(ValueError, match="unknown stages"):
        train(tmp_path, small(), seed=0, stages=("towers",), report=quiet)
