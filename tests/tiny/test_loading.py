"""The packaged weights: loading, errors, greedy answers, the card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from gridprune.tiny import iter_examples, load
from gridprune.tiny.loading import TinyModel, TinyWeightsError, weights_folder
from training.boxes.card import render
from training.boxes.evaluate import prepare, score

SECOND_SEED = Path(__file__).parents[2] / "checkpoints" / "seed-1"
N = 5


def answers(tiny: TinyModel) -> list[str]:
    out = []
    for example in iter_examples("dev", N, form=tiny.form.name):
        content = [{"type": "image", "image": example.image}, {"type": "text", "text": example.question}]
        inputs = tiny.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        )  # fmt: skip
        with torch.inference_mode():
            ids = tiny.model.generate(**inputs, do_sample=False, max_new_tokens=24)
        out.append(tiny.processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    return out


@pytest.fixture(scope="module")
def tiny() -> TinyModel:
    return load()


@pytest.fixture(params=["llava", "next"])
def either(request: pytest.FixtureRequest) -> TinyModel:
    return load(form=request.param)


def test_greedy_generation_equals_teacher_forcing(either: TinyModel) -> None:
    examples = list(iter_examples("dev", N, form=either.form.name))
    questions = prepare(either, examples)
    forced = score(either, questions, None)
    assert forced == score(either, questions, [torch.arange(len(question.tokens)) for question in questions])
    right = [answer == example.answer for answer, example in zip(answers(either), examples, strict=True)]
    assert right == forced
    assert sum(right) >= N // 2


def test_answers_are_the_same_from_a_saved_copy(tiny: TinyModel, tmp_path: Path) -> None:
    before = answers(tiny)
    tiny.model.save_pretrained(tmp_path)
    tiny.processor.save_pretrained(tmp_path)
    again = TinyModel(
        type(tiny.model).from_pretrained(tmp_path).eval(),
        type(tiny.processor).from_pretrained(tmp_path),
        tiny.clip,
        tiny.clip_tokenizer,
    )
    assert answers(again) == before
    assert answers(load()) == before


def test_towers_are_shared(tiny: TinyModel) -> None:
    ours, theirs = tiny.clip.vision_model.state_dict(), dict(tiny.model.model.vision_tower.state_dict())
    for name, tensor in ours.items():
        match = next(value for key, value in theirs.items() if key.endswith(name))
        assert torch.equal(tensor, match), name


def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(weights_folder(), tmp_path / "weights"))


def test_missing_file_is_named(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    (folder / "clip" / "model.safetensors").unlink()
    with pytest.raises(TinyWeightsError, match=r"clip.model\.safetensors is missing"):
        load(folder)


def test_damaged_file_is_named(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    path = folder / "llava" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(TinyWeightsError, match="damaged"):
        load(folder)


def test_missing_or_broken_listing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TinyWeightsError, match=r"checksums\.json is missing"):
        load(tmp_path)
    (tmp_path / "checksums.json").write_text("{")
    with pytest.raises(TinyWeightsError, match="not valid JSON"):
        load(tmp_path)


@pytest.mark.parametrize("folder", [weights_folder(), SECOND_SEED], ids=["packaged", "seed-1"])
def test_card_is_generated(folder: Path) -> None:
    assert render(json.loads((folder / "metrics.json").read_text())) == (folder / "MODEL_CARD.md").read_text()


def test_second_seed_is_another_model_that_answers(tiny: TinyModel) -> None:
    other = load(SECOND_SEED)
    ours, theirs = (one.model.lm_head.weight for one in (tiny, other))
    assert ours.shape == theirs.shape
    assert not torch.equal(ours, theirs)
    examples = list(iter_examples("dev", N))
    assert sum(score(other, prepare(other, examples), None)) >= N // 2


def test_package_is_small() -> None:
    folder = weights_folder()
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 25_000_000
