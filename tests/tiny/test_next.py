"""LLaVA-NeXT's form: the cut of an image, the order of its tokens, newlines, training and resuming."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from gridprune import GridPrune, prune
from gridprune.core.token_map import TokenMap
from gridprune.cues.text_tower import stored_reading
from gridprune.eval.ablations import given
from gridprune.eval.evidence import evidence as evidence_on_map
from gridprune.families.llava_next import map_from_places
from gridprune.tiny.data import iter_examples
from gridprune.tiny.forms import GRID, NEXT
from gridprune.tiny.loading import TinyWeightsError, load
from gridprune.tiny.questions import balanced
from gridprune.tiny.scenes import make_scene
from rounding import assert_same_output
from training.boxes import views
from training.boxes.clip import TinyCLIP
from training.boxes.evaluate import prefix, prepare
from training.boxes.export import build_next_processor, to_clip, to_llava, to_llava_next, write
from training.boxes.joint import JointModel, Projector
from training.boxes.lm import TinyLM
from training.boxes.next import TOKENS, NextModel, choose_tokens, train_next
from training.boxes.packing import pack
from training.boxes.symbolic import SymbolicLM
from training.boxes.train import tiny_recipe

RECIPE = tiny_recipe()


def untrained() -> tuple[TinyCLIP, JointModel]:
    torch.manual_seed(0)
    return TinyCLIP(RECIPE.tower), JointModel(Projector(RECIPE.tower.width, RECIPE.lm.width), SymbolicLM(RECIPE.lm))


@pytest.fixture(scope="module")
def token_map() -> TokenMap:
    """The map of the stock model's own order: overview, then rows of the mosaic with a newline behind each."""
    side = GRID * NEXT.tiles
    line = torch.cartesian_prod(torch.arange(GRID), torch.arange(GRID)).double()
    mosaic = torch.full((side, side + 1, 2), -1.0, dtype=torch.float64)
    mosaic[:, :side] = torch.cartesian_prod(torch.arange(side), torch.arange(side)).double().view(side, side, 2)
    return map_from_places(torch.cat([line, mosaic.flatten(0, 1)]), (GRID, GRID), NEXT.tiles)


def test_tokens_and_newlines_are_those_of_the_map(token_map: TokenMap) -> None:
    assert TOKENS == 2880 == int((~token_map.separator).sum())
    everything = views.with_newlines(np.arange(TOKENS), NEXT)
    assert (everything < 0).tolist() == token_map.separator.tolist()
    assert (everything < 0).sum() == 48
    kept = np.array([3, 500, 576, 577, 576 + 48, TOKENS - 1])
    assert views.with_newlines(kept, NEXT).tolist() == [3, 500, 576, 577, -1, 624, -1, 2879, -1]
    assert views.with_newlines(np.array([3, 500]), NEXT).tolist() == [3, 500]


def test_order_of_patches_is_the_maps(token_map: TokenMap) -> None:
    patches = torch.arange(5 * GRID * GRID).view(5, GRID * GRID, 1)
    source = token_map.source[~token_map.separator]
    assert torch.equal(views.in_order(patches, NEXT), source)


def test_evidence_lies_in_overview_and_tiles(token_map: TokenMap) -> None:
    for index in range(10):
        scene = make_scene("dev", index, form=NEXT)
        for question in balanced(scene):
            boxes = [tuple(value / NEXT.side for value in box) for box in question.boxes]
            ours = views.evidence(question.boxes, NEXT)
            assert ours.tolist() == evidence_on_map(token_map, boxes)[~token_map.separator].tolist()
        for part in views.truth(scene):
            assert part.center.sum() == len(scene.items)


def test_tiles_are_the_image() -> None:
    scene = make_scene("test", 3, form=NEXT)
    parts = views.cut(scene)
    assert parts.shape == (5, 192, 192, 3)
    assert np.array_equal(np.block([[[parts[1]], [parts[2]]], [[parts[3]], [parts[4]]]]), scene.pixels)


def test_padding_changes_no_answer() -> None:
    torch.manual_seed(0)
    lm = TinyLM(RECIPE.lm)
    questions = [balanced(make_scene("dev", index, form=NEXT))[:2] for index in range(2)]
    visual = torch.randn(2, 30, RECIPE.lm.width) * 0.1
    together = lm.states(visual, pack(questions, 40), torch.tensor([30, 17]))[0]
    alone = lm(visual[1:, :17], pack(questions[1:], 40))
    assert_same_output(together[1], alone[0], lm)


def test_prompt_is_newlines_between_projected_patches() -> None:
    clip, joint = untrained()
    model = NextModel(joint)
    scene = make_scene("train", 0, form=NEXT)
    states = views.view_features(clip.eval(), scene)
    kept = choose_tokens(scene, 60, np.random.default_rng(0))
    tokens, lengths = model.prompt([states], [kept])
    newline = torch.from_numpy(views.with_newlines(kept, NEXT) < 0)
    assert len(kept) == 60
    assert lengths.tolist() == [tokens.shape[1]] == [60 + int(newline.sum())]
    assert torch.equal(tokens[0, newline], model.newline.expand(int(newline.sum()), -1))
    assert_same_output(tokens[0, ~newline], joint.projector(states[kept]), joint.projector)


def rows(folder: Path) -> list[tuple[object, ...]]:
    found = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [(row["step"], row.get("loss"), row.get("accuracy")) for row in found]


def test_resume_after_a_kill_gives_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(folder: Path, stop: int | None = None) -> torch.nn.Module:
        clip, joint = untrained()
        return train_next(folder, RECIPE.next, clip, joint, seed=3, stop=stop, report=lambda line: None)

    monkeypatch.setattr("training.boxes.next.evaluate_next", lambda *a, **k: {})
    monkeypatch.setattr("training.runs.Run.maybe_save", lambda self, step, steps: self.save(step))
    before = untrained()[1].state_dict()
    straight = run(tmp_path / "straight")
    run(tmp_path / "killed", stop=3)
    resumed = run(tmp_path / "killed")
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert rows(tmp_path / "straight") == rows(tmp_path / "killed")
    moved = straight.state_dict()["joint.symbolic.lm.layers.0.q.weight"]
    assert not torch.equal(moved, before["symbolic.lm.layers.0.q.weight"])


def asked(question: str, image: object) -> dict[str, torch.Tensor]:
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    return build_next_processor().apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip


def test_export_matches_the_lean_modules_whole_and_pruned() -> None:
    """The stock model behind the stock processor sees what the training showed, also when tokens are pruned."""
    clip, joint = untrained()
    trained = NextModel(joint).eval()
    joint.projector.mean.normal_()
    joint.projector.std.uniform_(0.5, 2.0)
    stock = to_llava_next(clip.eval(), trained)
    scene = make_scene("dev", 1, form=NEXT)
    question = balanced(scene)[0]
    inputs = asked(question.text, scene.image)
    assert int((inputs["input_ids"] == stock.config.image_token_id).sum()) == 2880 + 48
    states = views.view_features(clip, scene)
    text = pack([[question]], 40)
    place = (text.target[0] >= 0).nonzero()[0, 0]
    for kept in (np.arange(TOKENS), choose_tokens(scene, 90, np.random.default_rng(2))):
        tokens, lengths = trained.prompt([states], [kept])
        with torch.no_grad():
            ours = joint.lm.states(tokens, text, lengths)[0][0, place]
            with prune(stock, given(torch.from_numpy(kept))):
                theirs = stock(**inputs).logits[0, -1]
        assert_same_output(theirs, ours, stock)


def test_package_of_three_checkpoints(tmp_path: Path) -> None:
    clip, joint = untrained()
    for part in (clip, joint):
        part.to(torch.bfloat16).float()  # as checkpoints hold them
    llava = to_llava(clip.eval(), joint.projector, joint.lm)
    write(tmp_path / "one", to_clip(clip), llava)
    with pytest.raises(TinyWeightsError, match=r"llava-next is missing"):
        load(tmp_path / "one", form="next")
    write(tmp_path / "all", to_clip(clip), llava, to_llava_next(clip, NextModel(joint)))
    assert stored_reading(tmp_path / "all" / "clip", default="minus") == "plus"
    tiny = load(tmp_path / "all", form="next")
    assert type(tiny.model).__name__ == "LlavaNextForConditionalGeneration"
    scene = make_scene("dev", 0, form=NEXT)
    inputs = asked("Is there a dog?", scene.image)
    again = tiny.processor(text=tiny.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is there a dog?"}]}],
        add_generation_prompt=True,
    ), images=scene.image, return_tensors="pt")  # fmt: skip
    assert all(torch.equal(inputs[name], again[name]) for name in inputs)
    example = next(iter(iter_examples("dev", 1, form="next")))
    (question,) = prepare(tiny, [example])
    kept = choose_tokens(scene, 70, np.random.default_rng(0))
    ours, _ = NextModel(joint).prompt([views.view_features(clip, scene)], [kept])
    theirs = prefix(tiny, question, torch.from_numpy(kept))
    assert theirs.shape[0] == 1 + ours.shape[1]
    shown = theirs[1:][torch.from_numpy(views.with_newlines(kept, NEXT)) >= 0]
    assert_same_output(shown, joint.projector(views.view_features(clip, scene)[kept]), tiny.model)
    assert question.cues.evidence.sum() == views.evidence(example.boxes, NEXT).sum()
    with prune(tiny.model, GridPrune(keep=320), processor=tiny.processor, clip=tmp_path / "all" / "clip"):
        assert tiny.model.generate(**inputs, max_new_tokens=2).shape[1] > inputs["input_ids"].shape[1]
    (tmp_path / "all" / "llava-next" / "model.safetensors").write_bytes(b"")
    with pytest.raises(TinyWeightsError, match="damaged"):
        load(tmp_path / "all", form="next")
