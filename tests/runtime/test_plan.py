"""`gridprune plan` against arithmetic written out by hand, on configurations of two well-known shapes."""

from __future__ import annotations

import json

import pytest
import torch
import transformers as hf
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from typer.testing import CliRunner

from gridprune import families
from gridprune.cli.main import app
from gridprune.core.budget import Budget
from gridprune.costs import LanguageModel
from gridprune.errors import BudgetError, CheckpointError, SettingError, UnsupportedModelError
from gridprune.runtime import plan
from hf.kit import model as tiny
from hf.models import STILL

GIB = 2**30
CLIP_L = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 336, "patch_size": 14, "projection_dim": 768,
}  # fmt: skip
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]


def vicuna() -> hf.LlamaConfig:
    return hf.LlamaConfig(
        vocab_size=32064, hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, intermediate_size=11008
    )


def llava() -> hf.LlavaConfig:
    return hf.LlavaConfig(vision_config=hf.CLIPVisionConfig(**CLIP_L), text_config=vicuna(), dtype="float16")


def llava_next() -> hf.LlavaNextConfig:
    vision = hf.CLIPVisionConfig(**CLIP_L)
    return hf.LlavaNextConfig(vision_config=vision, text_config=vicuna(), image_grid_pinpoints=PINPOINTS)


def qwen() -> hf.Qwen2_5_VLConfig:
    text = {
        "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
        "intermediate_size": 18944, "vocab_size": 152064,
    }  # fmt: skip
    vision = {"depth": 32, "hidden_size": 1280, "num_heads": 16, "intermediate_size": 3420, "out_hidden_size": 3584}
    return hf.Qwen2_5_VLConfig(text_config=text, vision_config=vision, dtype="bfloat16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Writes config and image processor of a shape, and nothing else."""

    def write(config):
        target = tmp_path_factory.mktemp(config.model_type)
        config.save_pretrained(target)
        IMAGE_PROCESSOR_MAPPING[type(config)]["pil"]().save_pretrained(target)
        return target

    return write


@pytest.fixture(scope="module")
def llava_folder(folder):
    return folder(llava())


@pytest.fixture(scope="module")
def llava_model(llava_folder):
    return plan.read(str(llava_folder), (1024, 768))


@pytest.fixture(scope="module")
def qwen_model(folder):
    return plan.read(str(folder(qwen())), (1024, 768))


def keep(*budgets):
    return [Budget.parse(budget) for budget in budgets]


def test_parameters_by_hand(llava_model, qwen_model):
    layer = 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096
    language = 2 * 32064 * 4096 + 32 * layer + 4096
    block = 4 * (1024**2 + 1024) + (1024 * 4096 + 4096) + (4096 * 1024 + 1024) + 4 * 1024
    tower = 1024 + 3 * 14 * 14 * 1024 + 577 * 1024 + 2 * 2 * 1024 + 24 * block
    projector = (1024 * 4096 + 4096) + (4096 * 4096 + 4096)
    assert llava_model.parameters == language + tower + projector == 7_063_427_072

    layer = 3584 * 3584 + 3584 + 2 * (3584 * 512 + 512) + 3584 * 3584 + 3 * 3584 * 18944 + 2 * 3584
    language = 2 * 152064 * 3584 + 28 * layer + 3584
    block = 3 * (1280**2 + 1280) + (1280**2 + 1280) + 3 * 1280 * 3420 + 2 * 3420 + 1280 + 2 * 1280
    merger = 1280 + (5120 * 5120 + 5120) + (5120 * 3584 + 3584)
    tower = 3 * 2 * 14 * 14 * 1280 + 32 * block + merger
    assert qwen_model.parameters == language + tower == 8_292_166_656


def test_llava_on_one_gpu_by_hand(llava_model):
    found = plan.plan(llava_model, keep(192, "11.1%"), plan.Load(text=256, memory=24 * GIB))
    per_token = 2 * 32 * 32 * 128 * 2  # keys and values, layers, heads, head size, two bytes
    assert found["kv_bytes_per_token"] == per_token == 524_288
    assert found["parameter_bytes"] == 2 * 7_063_427_072
    assert found["visual_tokens"] == 24 * 24  # whatever the image's size
    assert [row["visual_tokens"] for row in found["kept"]] == [192, 64]
    assert found["all"]["kv_bytes_per_image"] == 576 * per_token == 288 * 2**20
    assert found["kept"][1]["kv_bytes_per_image"] == 64 * per_token == 32 * 2**20

    room = int(24 * GIB * 0.9) - 2 * 7_063_427_072
    assert room == 9_065_969_254
    by_hand = [room // ((n + 256) * per_token) for n in (576, 192, 64)]
    assert by_hand == [20, 38, 54]
    rows = [found["all"], *found["kept"]]
    assert [row["data_parallel"]["requests"] for row in rows] == by_hand
    assert [row["tensor_parallel"] for row in rows] == [row["data_parallel"] for row in rows]


def test_flops_follow_the_published_convention(llava_model, qwen_model):
    found = plan.plan(llava_model, keep(128, 64), plan.Load())
    rows = [found["all"], *found["kept"]]
    d, m = 4096, 11008
    by_hand = [32 * (4 * n * d**2 + 2 * n**2 * d + 3 * n * d * m) for n in (576, 128, 64)]
    assert [row["prefill_flops"] for row in rows] == by_hand
    printed = [3.82, 0.833, 0.415]  # TFLOPs, by the authors' group
    assert [row["prefill_flops"] / 1e12 for row in rows] == pytest.approx(printed, rel=2e-3)
    assert rows[2]["prefill_flops_ratio"] == rows[2]["prefill_flops"] / rows[0]["prefill_flops"]

    n, d, kv, mlp = 999, 3584, 4 * 128, 18944  # grouped queries: keys and values are 512 wide
    by_hand = 28 * (2 * n * d * d + 2 * n * d * kv + 3 * n * d * mlp + 2 * n * n * d)
    assert plan.plan(qwen_model, keep(64), plan.Load())["all"]["prefill_flops"] == by_hand


def test_grouped_queries_over_gpus_by_hand(qwen_model):
    per_token = 2 * 28 * 4 * 128 * 2
    load = plan.Load(images=4, text=100, gpus=4, memory=16 * 10**9)
    found = plan.plan(qwen_model, keep(111), load)
    assert found["kv_bytes_per_token"] == per_token == 57_344
    assert found["visual_tokens"] == 27 * 37  # 768 / 28 = 27.4, 1024 / 28 = 36.6

    room, weights = int(16e9 * 0.9), 2 * 8_292_166_656
    length = 4 * 111 + 100
    split = (room - weights // 4) // (length * per_token // 4)  # a quarter of the weights, one of four heads
    assert found["kept"][0]["tensor_parallel"] == {"requests": split, "images": 4 * split, "images_per_gpu": split}
    assert room < weights
    assert found["kept"][0]["data_parallel"]["requests"] == 0
    assert found["notes"] == []  # split over four, they fit

    found = plan.plan(qwen_model, keep(111), plan.Load(gpus=7, memory=16 * 10**9))
    request = (111 + 256) * per_token // 4  # seven GPUs, four heads: each holds one of them whole
    assert found["kept"][0]["tensor_parallel"]["requests"] == (room - -(-weights // 7)) // request

    found = plan.plan(qwen_model, keep(111), plan.Load(gpus=3, memory=80 * 10**9))
    assert found["kept"][0]["tensor_parallel"] is None  # 28 heads
    assert found["kept"][0]["data_parallel"]["requests"] > 0
    assert any("28 attention heads" in note for note in found["notes"])


def test_newlines_count_in_the_prompt(folder):
    read = plan.read(str(folder(llava_next())), (672, 672))
    assert read.visual == plan.VisualTokens(5 * 576, 48)  # the overview, four tiles, 48 rows
    assert read.notes == ("the configuration names no dtype: bfloat16 was taken",)
    found = plan.plan(read, keep("11.1%", 20), plan.Load())
    assert found["all"]["prompt_tokens"] == 2880 + 48
    assert [row["visual_tokens"] for row in found["kept"]] == [320, 20]
    assert [row["prompt_tokens"] for row in found["kept"]] == [320 + 48, 20 + 20]  # a row each, at worst


def test_sliding_and_linear_layers():
    shape = LanguageModel.of(
        hf.Gemma3TextConfig(num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2, head_dim=8)
    )
    assert (shape.layers, shape.sliding, shape.window) == (1, 5, 4096)
    assert shape.kv_bytes(5000, 2) == 2 * 2 * 8 * 2 * (5000 + 5 * 4096)
    shape = LanguageModel(layers=1, linear=3, heads=2, kv_heads=1, head_dim=4, hidden=8, mlp=16)
    assert shape.kv_bytes(10, 4) == 2 * 10 * 1 * 4 * 4
    assert shape.flops(10) == 4 * 10 * 8 * (2 * 8 + 2 * 4 + 3 * 16) + 2 * 10 * 10 * 8


@pytest.mark.parametrize("case", STILL, ids=lambda case: case.name)
def test_geometry_needs_no_weights(case):
    config = tiny(case).config
    with torch.device("meta"):
        empty = hf.AutoModelForImageTextToText.from_config(config)
    family, image = families.find(empty), case.image(0)
    found = plan.visual_tokens(family, family.vision(case.call([11, image])))
    assert found.count + found.separators == case.tokens(image).count(case.placeholder)


def test_the_command(llava_folder):
    arguments = [str(llava_folder), "--keep", "192,64", "--gpus", "2", "--gpu-memory", "24GiB", "--images", "2"]
    done = CliRunner().invoke(app, ["plan", *arguments, "--size", "640x480", "--json"])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["size"], found["gpus"], found["request"]["images"]) == ([640, 480], 2, 2)
    assert [row["visual_tokens"] for row in found["kept"]] == [192, 64]
    done = CliRunner().invoke(app, ["plan", *arguments])
    assert done.exit_code == 0
    assert "288.0 MiB" in done.stdout


def test_the_embedded_model():
    found = plan.read("embedded", (192, 192), "float32")
    assert (found.family, found.visual.count, found.itemsize) == ("llava", 576, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--keep", "577"], "only 576"),
        (["--keep", "a"], "as a budget"),
        (["--size", "640"], "width x height"),
        (["--gpu-memory", "24 apples"], "24GiB"),
        (["--gpu-memory", "0"], "at least one"),
        (["--utilization", "1.5"], "utilization"),
        (["--dtype", "int4"], "--dtype"),
    ],
)
def test_bad_arguments(arguments, message):
    done = CliRunner().invoke(app, ["plan", "embedded", *arguments])
    assert done.exit_code == 2
    assert message in done.stderr


def test_bad_checkpoints(tmp_path, llava_model):
    with pytest.raises(CheckpointError, match=r"config\.json"):
        plan.read(str(tmp_path), (64, 64))
    llava().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="image processor"):
        plan.read(str(tmp_path), (64, 64))
    vicuna().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="no images"):
        plan.read(str(tmp_path), (64, 64))
    hf.Blip2Config().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="Supported classes"):
        plan.read(str(tmp_path), (64, 64))
    with pytest.raises(BudgetError, match="only 576"):
        plan.plan(llava_model, keep(577), plan.Load())
    with pytest.raises(SettingError, match="at least one"):
        plan.Load(images=0)
    assert plan.plan(llava_model, keep(64), plan.Load(memory=8 * GIB))["notes"] == ["the parameters alone do not fit"]
