"""Training stages: shapes, parity with transformers, and the same curve after a kill."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gridprune.tiny.questions import balanced
from gridprune.tiny.scenes import make_scene
from gridprune.tiny.vocabulary import ANSWER, BOS, VOCABULARY, encode
from rounding import assert_same_output
from training.boxes.clip import patchify
from training.boxes.export import build_processor, build_tokenizer, to_clip, to_llava
from training.boxes.joint import Projector, features
from training.boxes.lm import TinyLM
from training.boxes.packing import pack
from training.boxes.symbolic import SymbolicLM, choose_cells, train_symbolic
from training.boxes.tower import TowerModel, train_tower
from training.boxes.train import tiny_recipe, train

RECIPE = tiny_recipe()


def quiet(line: str) -> None:
    del line


def test_symbolic_shapes() -> None:
    import numpy as np

    scenes = [make_scene("train", i) for i in range(2)]
    model = SymbolicLM(RECIPE.lm)
    chosen = choose_cells(scenes, 40, np.random.default_rng(0), corrupt=True)
    assert chosen.label.shape == (2, 40)
    assert (chosen.index.diff(dim=1) > 0).all()
    tokens = model.symbols(model.lm.embed.weight, chosen.label, chosen.color, chosen.center, chosen.index)
    text = pack([balanced(scene) for scene in scenes], 128)
    assert tokens.shape == (2, 40, RECIPE.lm.width)
    assert model.lm(tokens, text).shape == (2, 128, len(VOCABULARY))


def test_packed_questions_equal_single_questions() -> None:
    torch.manual_seed(0)
    scene = make_scene("dev", 3)
    lm, visual = TinyLM(RECIPE.lm), torch.randn(1, 20, RECIPE.lm.width) * 0.1
    questions = balanced(scene)[:4]
    together = pack([questions], 80)
    logits = lm(visual, together)
    for number, question in enumerate(questions):
        alone = lm(visual, pack([[question]], 30))
        place = together.segment[0] == number
        assert_same_output(logits[0, place], alone[0, : int(place.sum())], lm)


def test_export_matches_the_lean_modules() -> None:
    torch.manual_seed(1)
    scene = make_scene("dev", 1)
    tower, lm = TowerModel(RECIPE.tower), TinyLM(RECIPE.lm)
    projector = Projector(RECIPE.tower.width, RECIPE.lm.width)
    projector.mean.normal_()
    projector.std.uniform_(0.5, 2.0)
    clip, llava = to_clip(tower.clip), to_llava(tower.clip, projector, lm)
    states = features(tower.clip, [scene])
    processor = build_processor()
    pixels = processor.image_processor(images=scene.image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        hidden = clip.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
        assert_same_output(hidden[:, 1:], states, clip)
        path = clip.visual_projection(clip.vision_model.post_layernorm(hidden[:, 1:]))
        lean = tower.clip.project(states)
        assert_same_output(torch.nn.functional.normalize(path, dim=-1), lean, clip)
        index = torch.arange(576)[None]
        patches = patchify(torch.from_numpy(scene.pixels)[None])
        clip.set_attn_implementation("eager")
        attention = clip.vision_model(pixel_values=pixels, output_attentions=True).attentions[-2]
        saliency = tower.clip.vision.saliency(patches, index)
        assert_same_output(attention[:, :, 0, 1:].mean(1), saliency, clip)
        question = balanced(scene)[0]
        chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question.text}]}]
        prompt = processor.apply_chat_template(chat, add_generation_prompt=True)
        inputs = processor(images=scene.image, text=prompt, return_tensors="pt")
        assert inputs["input_ids"][0, [0, -1]].tolist() == [BOS, ANSWER]
        logits = llava(**inputs).logits[0, -1]
        text = pack([[question]], 40)
        ours = lm(projector(states), text)[0, (text.target[0] >= 0).nonzero()[0, 0]]
        assert_same_output(logits, ours, llava)


def test_fast_tokenizer_equals_encode() -> None:
    tokenizer, closing = build_tokenizer(close=False), build_tokenizer(close=True)
    for index in range(20):
        for question in balanced(make_scene("test", index)):
            assert tokenizer(question.text)["input_ids"] == [BOS, *encode(question.text)]
            assert closing(question.text)["input_ids"][1:-1] == encode(question.text)
            assert tokenizer.decode(encode(question.answer)) == question.answer


def test_chat_template_in_the_standard_way() -> None:
    processor = build_processor()
    scene = make_scene("dev", 0)
    content = [{"type": "image", "image": scene.image}, {"type": "text", "text": "Is there a dog?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip
    assert inputs["input_ids"].shape == (1, 1 + 576 + 5 + 1)
    assert inputs["pixel_values"].shape == (1, 3, 192, 192)


def rows(folder: Path) -> list[tuple[object, ...]]:
    return [
        (r["step"], r.get("loss"), r.get("label"))
        for r in map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    ]


@pytest.mark.parametrize("stage", ["symbolic", "tower"])
def test_resume_after_a_kill_gives_the_same_weights(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"training.boxes.{stage}.evaluate_{stage}", lambda *a, **k: {})

    def run(folder: Path, stop: int | None = None) -> torch.nn.Module:
        if stage == "symbolic":
            return train_symbolic(folder, RECIPE.symbolic, RECIPE.lm, seed=3, stop=stop, report=quiet)
        return train_tower(folder, RECIPE.tower_training, RECIPE.tower, seed=3, stop=stop, report=quiet)

    monkeypatch.setattr("training.runs.Run.maybe_save", lambda self, step, steps: self.save(step))
    straight = run(tmp_path / "straight")
    run(tmp_path / "killed", stop=3)
    resumed = run(tmp_path / "killed")
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert rows(tmp_path / "straight") == rows(tmp_path / "killed")


def test_unknown_stage_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown stages"):
        train(tmp_path, stages=("tower", "polish"))
