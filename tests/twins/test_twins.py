"""Real checkpoints' processors, ids and sizes from end to end: what the language model reads, and every command."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL.Image import Resampling
from typer.testing import CliRunner

from gridprune import GridPrune, families
from gridprune.cli.main import app
from gridprune.core.budget import Budget
from gridprune.demo.engine import Engine
from gridprune.errors import UnsupportedCallError
from gridprune.eval.downsample import smaller
from gridprune.methods import create
from gridprune.runtime import answer, prepare

QUESTION = "What is left of the door?"
SHRINKS = {  # whose image of 640 x 384 can be made to have so few tokens; the others' processors scale small images up
    "80%": {"llava-1.5", "llava-1.6", "llava-onevision", "qwen2.5-vl", "qwen3-vl"},
    "20%": {"llava-1.5", "qwen2.5-vl"},
}
NEWLINES = {"llava-1.6": 28, "llava-onevision": 27}  # one behind each row of the mosaic of an image of 640 x 384


@pytest.fixture
def read(loaded):
    """The keyword arguments of every call of the language model."""
    calls = []
    decoder = loaded.model.get_decoder()
    handle = decoder.register_forward_pre_hook(lambda net, args, kwargs: calls.append(kwargs), with_kwargs=True)
    yield calls
    handle.remove()


@torch.no_grad()
def token_by_token(loaded, inputs, report):
    """(n, D) input embeddings of the prompt without the visual tokens that the report says are gone, and which of the
    stock features stay."""
    family, table = families.find(loaded.model), loaded.model.get_input_embeddings()
    output = loaded.model.model.get_image_features(**family.vision(dict(inputs)), return_dict=True)
    features = torch.cat([part.reshape(-1, part.shape[-1]) for part in output.pooler_output])
    candidates = (~report.token_map.separator).nonzero()[:, 0].tolist()
    gone = set(range(len(candidates))) - set(report.kept_indices.tolist())
    gone = {candidates[index] for index in gone}
    rows, stays, place = [], [], 0
    for token in inputs["input_ids"][0]:
        if int(token) != family.placeholder:
            rows.append(table(token))
            continue
        if place not in gone:
            rows.append(features[place])
            stays.append(place)
        place += 1
    assert place == len(features)
    planes = [torch.cat(list(plane))[stays] for plane in getattr(output, "deepstack_features", None) or []]
    return torch.stack(rows), planes


def test_the_language_model_reads_what_is_written_out_token_by_token(loaded, image, read):
    report = answer(loaded, image, QUESTION, GridPrune(keep="20%"), max_new_tokens=1).report
    expected, planes = token_by_token(loaded, prepare(loaded, image, QUESTION), report)
    assert torch.equal(read[0]["inputs_embeds"][0], expected)
    given = read[0].get("deepstack_visual_embeds") or []
    assert len(given) == len(planes)
    assert all(map(torch.equal, given, planes))
    assert report.kept == round(report.total / 5)


def test_keeping_all_reads_and_answers_as_the_stock_model(loaded, image, read):
    stock = answer(loaded, image, QUESTION, max_new_tokens=3)
    pruned = answer(loaded, image, QUESTION, create("keep-all"), max_new_tokens=3)
    half = len(read) // 2
    assert all(torch.equal(a["inputs_embeds"], b["inputs_embeds"]) for a, b in zip(read[:half], read[half:]))
    assert (stock.text, stock.kv_bytes) == (pruned.text, pruned.kv_bytes)


def test_every_command_runs(loaded, image, tmp_path, monkeypatch):
    monkeypatch.setattr("gridprune.runtime.ask.load", lambda *args, **kwargs: loaded)
    image.save(tmp_path / "a.png")
    question = {"image": "a.png", "question": QUESTION, "answer": "nothing", "boxes": [[20, 20, 300, 200]]}
    (tmp_path / "q.jsonl").write_text(json.dumps(question))

    def run(*words):
        result = CliRunner().invoke(app, [*map(str, words), "--json"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    common = ("--model", "twin", "--keep", "20%")
    asked = run("ask", tmp_path / "a.png", QUESTION, *common, "--max-new-tokens", 2)
    total = asked["visual_tokens"]["total"]
    explained = run("explain", tmp_path / "a.png", QUESTION, *common, "-o", tmp_path / "kept.png")
    assert explained["kept_indices"] == asked["images"][0]["kept_indices"]
    assert (tmp_path / "kept.png").stat().st_size > 10_000
    done = run("batch", tmp_path / "q.jsonl", *common, "-o", tmp_path / "o.jsonl", "--max-new-tokens", 2)
    assert (done["answered"], done["failed"]) == (1, [])
    assert json.loads((tmp_path / "o.jsonl").read_text())["visual_tokens"] == asked["visual_tokens"]
    methods = ("--methods", "gridprune,random,oracle", "--max-new-tokens", 2, "--out", tmp_path / "run")
    metrics = run("eval", "--data", tmp_path / "q.jsonl", *common, *methods)
    assert metrics["full"]["tokens"] == total
    assert [row["tokens"] for row in metrics["rows"]] == [asked["visual_tokens"]["kept"]] * 3
    assert metrics["rows"][2]["evidence_recall"] == 1.0  # the oracle's


@pytest.mark.parametrize("share", ["80%", "20%"])
def test_the_control_of_runs_is_a_smaller_image_or_refused(twin, loaded, image, share):
    family, budget = families.find(loaded.model), Budget.parse(share)
    if twin.name not in SHRINKS[share]:
        with pytest.raises(UnsupportedCallError, match="leave 'downsample' out"):
            smaller(loaded, family, image, QUESTION, budget)
        return
    total = answer(loaded, image, QUESTION, create("keep-all"), max_new_tokens=1).visual_tokens
    small = smaller(loaded, family, image, QUESTION, budget)
    assert 0.7 * budget.resolve(total) < small.tokens <= budget.resolve(total)
    call = small.call(family)
    loaded.model.generate(**call, max_new_tokens=1)  # the stock model compares numbers of features and placeholders
    newlines = int((call["input_ids"] == family.placeholder).sum()) - small.tokens
    assert 0 <= newlines <= NEWLINES.get(twin.name, 0)


def test_the_control_gives_the_stock_processor_what_pillow_resized(twin, loaded, image):
    if not twin.name.startswith("qwen2.5"):
        pytest.skip("by hand for one that follows the image's size: 14 x 23 tokens of 28 x 28 pixels")
    small = smaller(loaded, families.find(loaded.model), image, QUESTION, Budget.parse("20%"))  # 64 of 322
    expected = prepare(loaded, image.resize((285, 171), Resampling.BILINEAR), QUESTION)  # by sqrt(64 / 322)
    assert small.inputs["image_grid_thw"].tolist() == [[1, 12, 20]]
    assert all(torch.equal(small.inputs[key], value) for key, value in expected.items())


def test_the_page_shows_the_whole_image_and_all_its_tokens(twin, loaded, image):
    page = Engine(loaded)
    (seen,) = page.see([image], QUESTION)
    prompt = prepare(loaded, image, QUESTION)["input_ids"]
    assert page.tokens([image]) == [len(seen.token_map)]
    assert len(seen.token_map) == int((prompt == page.streams[0].placeholder).sum()) - NEWLINES.get(twin.name, 0)
    assert seen.saliency.shape == (len(seen.token_map),)
    whole = image.crop((128, 0, 512, 384)) if twin.crops else image
    shown, expected = (np.asarray(image.convert("RGB").resize((40, 24)), dtype=float) for image in (seen.image, whole))
    assert np.abs(shown - expected).mean() < 8  # of 255; one of several tiles is further away than 30
    answered = page.answer([image], QUESTION, create("gridprune", keep="20%"))
    assert answered.report.total == len(seen.token_map)
