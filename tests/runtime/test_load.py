"""What is loaded: checkpoints with all their weights, on devices that are there, in numbers that exist."""

from __future__ import annotations

import copy
import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from gridprune import GridPrune
from gridprune.compat import pretrained
from gridprune.cues.load_text import load_text_tower
from gridprune.errors import CheckpointError, SettingError
from gridprune.runtime import answer, load
from gridprune.runtime.devices import DTYPES, find_device
from gridprune.tiny.loading import weights_folder
from hf.cases import CASES
from hf.test_siglip import siglip
from hf.words import tokenizer


def without(source, target, name):
    """A copy of a checkpoint that lacks one weight."""
    shutil.copytree(source, target)
    weights = load_file(target / "model.safetensors")
    del weights[name]
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_a_checkpoint_that_lacks_a_weight_is_refused(tmp_path):
    stored = load_file(weights_folder() / "llava" / "model.safetensors")
    name = next(key for key in stored if key.endswith("layers.1.mlp.up_proj.weight"))
    folder = without(weights_folder() / "llava", tmp_path / "llava", name)
    with pytest.raises(CheckpointError, match=r"1 of \d+ weights are missing .*layers\.1\.mlp\.up_proj\.weight"):
        load(str(folder))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_head_that_is_tied_is_not_missing(case, tmp_path):
    stock = case.build()
    config = copy.deepcopy(stock.config)
    config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = True
    model = type(stock)(config)
    model.save_pretrained(tmp_path)
    assert not any("lm_head" in name for name in load_file(tmp_path / "model.safetensors"))
    loaded = pretrained(type(stock), tmp_path)
    assert torch.equal(loaded.get_output_embeddings().weight, model.get_input_embeddings().weight)


def test_a_head_that_is_missing_is_refused_with_the_remedy(tmp_path):
    folder = tmp_path / "llava"  # the embedded checkpoint holds no head, and says that it is tied
    shutil.copytree(weights_folder() / "llava", folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["tie_word_embeddings"]
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = False
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r'such as lm_head\.weight.*config.json: "tie_word_embeddings": true'):
        load(str(folder))


def test_a_text_half_that_lacks_a_weight_is_refused(tmp_path):
    folder = without(weights_folder() / "clip", tmp_path / "clip", "text_projection.weight")
    with pytest.raises(CheckpointError, match=r"1 of \d+ weights .*text_projection"):
        load_text_tower(folder)
    side = load_text_tower(weights_folder() / "clip").export(tmp_path / "side")
    with pytest.raises(CheckpointError, match=r"1 of \d+ weights .*text_projection"):
        load_text_tower(without(side, tmp_path / "half", "text_projection.weight"))
    siglip().save_pretrained(tmp_path / "siglip")
    tokenizer().save_pretrained(tmp_path / "siglip")
    with pytest.raises(CheckpointError, match=r"1 of \d+ weights .*text_model\.head\.bias"):
        load_text_tower(without(tmp_path / "siglip", tmp_path / "s", "text_model.head.bias"))


def test_a_llava_is_no_text_half():
    with pytest.raises(CheckpointError, match=r"is no whole CLIPModel: (?P<all>[0-9]+) of (?P=all) weights"):
        load_text_tower(weights_folder() / "llava")


def test_devices_are_there_or_refused():
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    assert find_device("auto") == found
    for name in ("banana", "cuda:77", "meta"):
        with pytest.raises(SettingError, match=f"no device '{name}'.*Leave the device at 'auto'"):
            find_device(name)


def test_numbers_exist_or_are_refused():
    with pytest.raises(SettingError, match="'banana'"):
        load(dtype="banana")
    assert {dtype: str(load(dtype=dtype).model.dtype) for dtype in DTYPES} == {
        "auto": "torch.float32",
        "float32": "torch.float32",
        "bfloat16": "torch.bfloat16",
        "float16": "torch.float16",
    }


def test_a_device_map_spreads_a_checkpoint_alone():
    loaded = load(str(weights_folder() / "llava"), clip=weights_folder() / "clip", device_map="auto")
    found = answer(loaded, Image.new("RGB", (64, 48)), "What is red?", GridPrune(keep=8), max_new_tokens=2)
    assert found.visual_tokens == 8
    for name, device in (("embedded", "auto"), (str(weights_folder() / "llava"), "cpu:0")):
        with pytest.raises(SettingError, match="device map"):
            load(name, device=device, device_map="auto")
