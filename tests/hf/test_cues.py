"""Cues against plain formulas: attention maps, patch states, relevance by CLIP and by embeddings."""

from __future__ import annotations

import dataclasses
import io
import json
import statistics

import pytest
import torch
import transformers as hf
from PIL import Image

from gridprune import GridPrune, families, prune
from gridprune.core.token_map import Zones
from gridprune.cues.attention import MOST_QUERIES, cls_attention, received_attention
from gridprune.cues.clip_text import ClipText
from gridprune.cues.sensitivity import sensitivity
from gridprune.errors import (
    CheckpointError,
    MissingCueError,
    QuestionError,
    SettingError,
    UnknownNameError,
    UnsupportedCallError,
)
from gridprune.methods.base import Needs, Selection
from gridprune.methods.registry import create
from gridprune.selection import collect
from rounding import assert_same, assert_same_output

from .kit import model, shuffled
from .models import CLIP, GEMMA3, IDEFICS3, INTERNVL, LLAVA, LLAVA_NEXT, ONEVISION, QWEN2_5_VL
from .words import VICUNA, processor, tokenizer

WORDS = processor(VICUNA)


def call(case, number=0):
    return case.call([*shuffled(1), case.image(number), *shuffled(2)])


def clip_text(width=24, reading="both"):
    torch.manual_seed(3)
    config = hf.CLIPTextConfig(
        vocab_size=len(tokenizer()), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=77, projection_dim=16, eos_token_id=2, bos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    return ClipText(hf.CLIPTextModelWithProjection(config), tokenizer(), torch.randn(16, width), reading)


# -- saliency ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [LLAVA, LLAVA_NEXT, ONEVISION, GEMMA3], ids=lambda case: case.name)
def test_saliency_is_what_eager_attention_says(case):
    net = model(case)
    with torch.no_grad(), prune(net, create("fastervlm", keep=5)) as pruning:
        net(**call(case))
    (report,) = pruning.reports
    pixels = call(case)["pixel_values"]
    views = pixels.view(-1, *pixels.shape[-3:])
    net.set_attn_implementation("eager")
    with torch.no_grad():
        maps = net.model.vision_tower(views, output_attentions=True).attentions[-2].mean(1)
    net.set_attn_implementation("sdpa")
    per_patch = (maps[:, 0, 1:] if "[CLS]" in report.saliency_source else maps.mean(1)).flatten()
    expected = per_patch[report.token_map.candidates.source].mean(-1)
    assert_same_output(report.saliency, expected, net)


ATTENTION = {"terms": 50, "depth": 2}  # products of 8 numbers, then sums over 50 tokens


def test_received_attention_streams_and_masks():
    torch.manual_seed(0)
    query, key = torch.randn(2, 3, 50, 8), torch.randn(2, 3, 50, 8)
    mask = torch.rand(2, 1, 50, 50) < 0.7
    mask[..., 0] = True
    full = (query @ key.transpose(-1, -2) / 8**0.5).masked_fill(~mask, float("-inf")).softmax(-1).mean((1, 2))
    assert_same(received_attention(query, key, mask), full, **ATTENTION)
    row = (query @ key.transpose(-1, -2) / 8**0.5).softmax(-1).mean(1)[:, 0]
    assert_same(cls_attention(query, key), row, **ATTENTION)
    grouped = received_attention(query, key[:, :1])
    assert_same(grouped, received_attention(query, key[:, :1].expand(-1, 3, -1, -1)), **ATTENTION)


def test_large_grids_are_sampled_at_a_uniform_stride():
    torch.manual_seed(0)
    length = 2 * MOST_QUERIES + 3
    query, key = torch.randn(1, 1, length, 4), torch.randn(1, 1, length, 4)
    expected = (query[:, :, ::3] @ key.transpose(-1, -2) / 2).softmax(-1).mean((1, 2))
    assert_same(received_attention(query, key), expected, terms=length, depth=2)


def test_windowed_values_come_back_in_order():
    """Qwen2.5-VL's merger on the states as captured and put in order gives the model's own features."""
    net = model(QWEN2_5_VL)
    family = families.find(net)
    given = QWEN2_5_VL.call([QWEN2_5_VL.image(0), 5, QWEN2_5_VL.image(1)])
    vision = family.vision(given)
    maps = family.token_maps(vision)
    with torch.no_grad():
        last = net.config.vision_config.depth - 1
        encoded = family.encode(vision, maps, families.base.Blocks(states=frozenset({last})))
        states = encoded.parts.states(encoded.captured, last)
        for own, features in zip(states, encoded.embeddings):
            assert_same_output(net.model.visual.merger(own), features, net)


# -- relevance ---------------------------------------------------------------------------------------------------------


def test_clip_relevance_by_hand():
    net, text = model(LLAVA), clip_text()
    with torch.no_grad(), prune(net, GridPrune(keep=8), clip=text, question="What is red?") as pruning:
        net(**call(LLAVA))
    (report,) = pruning.reports
    tower = net.model.vision_tower
    post = next(m.post_layernorm for m in tower.modules() if hasattr(m, "post_layernorm"))
    with torch.no_grad():
        states = tower(call(LLAVA)["pixel_values"], output_hidden_states=True).hidden_states[-2][0, 1:]
        patches = post(states) @ text.visual_projection.T
        tokens = tokenizer()(["What is red?"], return_tensors="pt")
        inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        words = text.text_model(**inputs).text_embeds[0]
    expected = torch.nn.functional.cosine_similarity(patches, words[None], dim=-1)
    assert_same_output(report.relevance, expected, net)
    assert report.reading == "both"
    assert report.kept == 8


def test_saliency_is_read_where_the_tower_is_read_by_agreement_with_it():
    net, text = model(LLAVA), clip_text(reading="agree")
    method = create("relevance", keep=8)
    assert method.needs == {"relevance"}
    signs = set()
    for question in ("What is red?", "what?", "Where is the cat?", "How many dogs are there?"):
        with torch.no_grad(), prune(net, method, clip=text, question=question) as pruning:
            net(**call(LLAVA))
        (report,) = pruning.reports
        relevance, saliency = report.relevance.tolist(), report.saliency.tolist()
        sign = 1 if statistics.correlation(relevance, saliency) >= 0 else -1
        best = sorted(range(len(relevance)), key=lambda i: -sign * relevance[i])[:8]
        assert report.kept_indices.tolist() == sorted(best)
        signs.add(sign)
    assert signs == {1, -1}


@pytest.mark.parametrize("case", [QWEN2_5_VL, INTERNVL, IDEFICS3], ids=lambda case: case.name)
def test_embedding_relevance_by_hand(case):
    net = model(case)
    with torch.no_grad(), prune(net, GridPrune(keep=4), processor=WORDS, question="what?") as pruning:
        net(**call(case))
    (report,) = pruning.reports
    features = case.features(net, [case.image(0)])[0]
    ids = tokenizer()("what?", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        words = net.get_input_embeddings()(torch.tensor(ids))
    expected = torch.nn.functional.cosine_similarity(features[:, None], words[None], dim=-1).mean(1)
    assert_same_output(report.relevance, expected, net)
    assert report.reading == "plus"
    assert "embeddings" in report.relevance_source


def test_long_questions_are_cut_into_segments():
    text = clip_text()
    question = " ".join(f"w{i}" for i in range(2000))
    whole = text.embed(question)
    assert whole.shape == (16,)
    assert torch.isfinite(whole).all()
    assert torch.equal(text.embed(question), whole)


def test_missing_text_side_names_the_remedy():
    with pytest.raises(MissingCueError, match="export-clip"):
        prune(model(LLAVA), GridPrune(keep=8))
    with pytest.raises(MissingCueError, match="processor"):
        prune(model(QWEN2_5_VL), GridPrune(keep=4), question="what?")


def test_empty_and_missing_questions():
    net, text = model(LLAVA), clip_text()
    with pytest.raises(QuestionError, match="empty"), prune(net, GridPrune(keep=8), clip=text, question=" "):
        net(**call(LLAVA))
    with pytest.raises(QuestionError, match="processor"), prune(net, GridPrune(keep=8), clip=text):
        net(**call(LLAVA))
    with (
        pytest.raises(QuestionError, match="2 questions"),
        prune(net, GridPrune(keep=8), clip=text, question=["a", "b"]),
    ):
        net(**call(LLAVA))


def test_wrong_clip_is_refused():
    net = model(LLAVA)
    with (
        pytest.raises(CheckpointError, match="width 10"),
        prune(net, GridPrune(keep=8), clip=clip_text(10), question="What?"),
    ):
        net(**call(LLAVA))


def test_cls_queries_need_cls():
    method = create("prumerge", keep=4)
    assert "queries_cls" in method.needs
    with pytest.raises(MissingCueError, match=r"\[CLS\]"):
        prune(model(INTERNVL), method)


def test_clip_side_survives_a_round_trip(tmp_path):
    text = clip_text(reading="agree")
    again = ClipText.load(text.export(tmp_path / "clip", dtype=torch.float32))
    assert again.reading == "agree"
    assert_same_output(again.embed("What is red?"), text.embed("What is red?"), text.text_model)
    assert torch.equal(again.visual_projection, text.visual_projection)


def test_clip_beside_a_checkpoint_is_found(tmp_path):
    net, text = model(LLAVA), clip_text()
    net.save_pretrained(tmp_path)
    text.export(tmp_path / "clip", dtype=torch.float32)
    again = type(net).from_pretrained(tmp_path, attn_implementation="sdpa").eval()
    found = []
    for each, given in ((net, text), (again, None)):
        with torch.no_grad(), prune(each, GridPrune(keep=8), clip=given, question="What is red?") as pruning:
            each(**call(LLAVA))
        found.append(pruning.reports[0].kept_indices)
    assert torch.equal(*found)


def test_whole_clip_checkpoints_are_read(tmp_path):
    text = {"vocab_size": len(tokenizer()), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "eos_token_id": 2}
    vision = {key: value for key, value in CLIP.items() if key != "projection_dim"}
    hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    assert ClipText.load(tmp_path).patch_width == 24
    with pytest.raises(CheckpointError, match="export-clip"):
        ClipText.load(tmp_path / "nothing")


def test_cues_are_collected_only_when_asked():
    family = families.find(model(LLAVA))
    assert collect.wanted_blocks(
        family, Needs.of(create("random", keep=3)), collect.TextSide()
    ) == families.base.Blocks(frozenset(), frozenset())
    blocks = collect.wanted_blocks(family, Needs.of(GridPrune(keep=3)), collect.TextSide())
    assert blocks.states == {1}
    assert blocks.attention == {1}


# -- reports -----------------------------------------------------------------------------------------------------------


def test_reports_are_plain_and_drawn(tmp_path):
    net = model(LLAVA)
    conversation = [{"role": "user", "content": [{"type": "text", "text": "What is red?"}]}]
    assert WORDS.apply_chat_template(conversation, tokenize=False)
    with torch.no_grad(), prune(net, GridPrune(keep=8), clip=clip_text(), question="What is red?") as pruning:
        net(**call(LLAVA))
    (report,) = pruning.reports
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["visual_tokens"] == {"total": 36, "kept": 8}
    assert plain["question"] == "What is red?"
    assert sum(plain["zone_budgets"]) == 8
    assert report.save(tmp_path / "kept.png").stat().st_size > 100
    assert report.figure(tmp_path / "figure.png").stat().st_size > 100
    assert repr(report) == "Report(gridprune: 8 of 36 visual tokens, question='What is red?')"
    shown = Image.open(io.BytesIO(report._repr_png_()))
    assert (shown.format, shown.size) == ("PNG", report.overlay().size)
    assert "8 of 36 visual tokens" in report._repr_html_()


def test_objects_say_what_they_are_in_a_line():
    net = model(LLAVA)
    pruning = prune(net, "random(seed=3)", keep=5)
    assert repr(pruning) == "Pruning(random, keep=5, LlavaForConditionalGeneration, 0 report(s))"
    with pytest.raises(UnsupportedCallError, match="no report yet"):
        _ = pruning.report
    with torch.no_grad(), pruning:
        net(**call(LLAVA))
    assert pruning.report is pruning.reports[-1]
    assert pruning.report.kept == 5
    zones = Zones(index=torch.tensor([0, 0, 1]), size=torch.tensor([2, 1]))
    assert repr(Selection(torch.tensor([[0, 2]]), zones=zones)) == "Selection(2 tokens in each of 1 image(s), 2 zones)"
    asked = dataclasses.replace(pruning.report, question="<b>")
    assert "&lt;b&gt;" in asked._repr_html_()


def test_methods_go_by_name():
    net = model(LLAVA)
    assert prune(net, "random(seed=3)", keep="25%").method == create("random", keep="25%", seed=3)
    assert prune(net, "random").method == create("random")
    for given, keep, words in (
        (GridPrune, None, "Give a method such as"),
        (GridPrune(), 3, "stands in it"),
        (7, 3, "7"),
    ):
        with pytest.raises(SettingError, match=words):
            prune(net, given, keep=keep)
    with pytest.raises(UnknownNameError, match="Did you mean 'random'"):
        prune(net, "randum", keep=3)


def test_reports_of_many_images_are_bounded():
    net = model(LLAVA)
    with torch.no_grad(), prune(net, create("random", keep=3), max_reports=2) as pruning:
        net(**LLAVA.call([LLAVA.image(0), LLAVA.image(1), LLAVA.image(2)]))
    assert len(pruning.reports) == 2


# -- sensitivity of the projector --------------------------------------------------------------------------------------


def test_sensitivity_is_the_limit_of_small_differences():
    net = model(LLAVA)
    with torch.no_grad():
        states = net.model.vision_tower(call(LLAVA)["pixel_values"], output_hidden_states=True).hidden_states[-2][0, 1:]
    project = net.model.multi_modal_projector.double()
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(64, states.shape[1], generator=generator), dim=1)
    expected, h = torch.zeros(len(states), dtype=torch.float64), 1e-4
    with torch.no_grad():
        for u in directions.double():
            ahead, behind = project(states.double() + h * u), project(states.double() - h * u)
            expected += (ahead - behind).norm(dim=-1) / (2 * h * len(directions))
    project.float()
    with torch.inference_mode():
        found = sensitivity(project, states)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


def test_sensitivity_comes_from_the_models_own_projector():
    net = model(LLAVA)
    with torch.inference_mode(), prune(net, create("zoo-prune", keep=8)) as pruning:
        net(**call(LLAVA))
    assert pruning.reports[0].kept == 8
    with pytest.raises(MissingCueError, match="fuses"):
        prune(model(QWEN2_5_VL), create("zoo-prune", keep=4))
