"""Relevance by SigLIP's text tower against formulas written out, on tiny random SigLIP and SigLIP 2 models."""

from __future__ import annotations

import math

import pytest
import torch
import transformers as hf

from gridprune import GridPrune, prune
from gridprune.cues.load_text import load_text_tower
from gridprune.cues.siglip_text import SiglipText
from gridprune.errors import CheckpointError
from gridprune.methods.registry import create
from rounding import assert_same_output

from .kit import model, shuffled
from .models import GEMMA3, IDEFICS3, LLAVA, ONEVISION, ONEVISION_VIDEOS, PALIGEMMA, QWEN2_5_VL, SIGLIP
from .test_cues import clip_text
from .words import tokenizer

CONTEXT = 16
WITH_SIGLIP = [ONEVISION, ONEVISION_VIDEOS, GEMMA3, PALIGEMMA, IDEFICS3]


def siglip(kind="Siglip"):
    """A whole SigLIP whose towers are as wide as those of the tiny models."""
    torch.manual_seed(5)
    text = {"vocab_size": len(tokenizer()), "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "max_position_embeddings": CONTEXT, "projection_size": 24, "pad_token_id": 0}
    vision = {**SIGLIP, "num_patches": 36} if kind == "Siglip2" else SIGLIP
    built = getattr(hf, f"{kind}Model")(getattr(hf, f"{kind}Config")(text_config=text, vision_config=vision)).eval()
    for parameter in built.parameters():
        parameter.data.normal_(0, 0.3)
    return built


def patch_by_patch(whole, states):
    """What the pooling head makes of each patch alone, from its weights: value, output, norm, two linear layers."""
    head = next(m for m in whole.vision_model.modules() if hasattr(m, "probe"))
    width = states.shape[-1]
    weights, bias = head.attention.in_proj_weight[2 * width :], head.attention.in_proj_bias[2 * width :]
    rows = []
    for x in states:
        gathered = head.attention.out_proj.weight @ (weights @ x + bias) + head.attention.out_proj.bias
        centred = gathered - gathered.mean()
        normed = centred / (centred.square().mean() + head.layernorm.eps).sqrt() * head.layernorm.weight
        inner = head.mlp.fc1.weight @ (normed + head.layernorm.bias) + head.mlp.fc1.bias
        gelu = 0.5 * inner * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
        rows.append(gathered + head.mlp.fc2.weight @ gelu + head.mlp.fc2.bias)
    return torch.stack(rows)


def question_vector(whole, question):
    ids = tokenizer()([question], padding="max_length", max_length=CONTEXT, return_tensors="pt")["input_ids"]
    return whole.get_text_features(input_ids=ids, return_dict=True).pooler_output[0]


@pytest.mark.parametrize("case", WITH_SIGLIP, ids=lambda case: case.name)
@pytest.mark.parametrize("kind", ["Siglip", "Siglip2"])
def test_relevance_by_hand(case, kind):
    net, whole = model(case), siglip(kind)
    text = SiglipText.from_model(whole, tokenizer())
    call = case.call([*shuffled(1), case.image(0), *shuffled(2)])
    with torch.no_grad(), prune(net, GridPrune(keep=5), clip=text, question="red?") as pruning:
        net(**call)
        (report,) = pruning.reports
        encode = net.model.get_video_features if case.frames else net.model.get_image_features
        tower = getattr(net.model, "vision_tower", None) or net.model.vision_model
        seen = []

        def keep(module, args, out):
            seen.append(out[0] if isinstance(out, tuple) else out)

        blocks = next(m for m in tower.modules() if isinstance(m, torch.nn.ModuleList))
        post_norm = next(m.post_layernorm for m in tower.modules() if hasattr(m, "post_layernorm"))
        handle = blocks[-1].register_forward_hook(keep)
        encode(**case.vision([[case.image(0)]]), return_dict=True)
        handle.remove()
        patches = patch_by_patch(whole, post_norm(seen[0]).flatten(0, 1))
        per_patch = torch.nn.functional.cosine_similarity(patches, question_vector(whole, "red?")[None], dim=-1)
    expected = per_patch[report.token_map.candidates.source].mean(-1)
    assert_same_output(report.relevance, expected, whole)
    assert report.relevance_source == "SigLIP text tower"
    assert report.reading == "plus"


def test_words_and_long_questions():
    whole = siglip()
    text = SiglipText.from_model(whole, tokenizer())
    ids = tokenizer()(["red?"], padding="max_length", max_length=CONTEXT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        states = whole.text_model.head(whole.text_model(input_ids=ids).last_hidden_state[0])
    special = {0, 1, 2}
    own = [i for i, token in enumerate(ids[0].tolist()) if token not in special]
    assert_same_output(text.embed_words("red?"), torch.nn.functional.normalize(states[own], dim=-1), whole)
    long = "what is the colour of that thing over there"
    parts = [question_vector(whole, part) for part in text._segments(long)]
    assert len(parts) > 1
    mean = torch.nn.functional.normalize(torch.stack(parts), dim=-1).mean(0)
    assert_same_output(text.embed(long), mean.detach(), whole)


def test_methods_by_word_run():
    net, text = model(GEMMA3), SiglipText.from_model(siglip(), tokenizer())
    method = create("eadp", keep=4)
    assert "word_relevance" in method.needs
    with (
        torch.no_grad(),
        prune(net, method, clip=text, question="red?", processor=tokenizer()) as pruning,
    ):
        net(**GEMMA3.call([5, GEMMA3.image(0)]))
    assert pruning.reports[0].kept == 4


@pytest.mark.parametrize("kind", ["Siglip", "Siglip2"])
def test_checkpoints_are_told_apart(tmp_path, kind):
    siglip(kind).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    (tmp_path / "gridprune.json").write_text('{"reading": "minus"}')
    text = load_text_tower(tmp_path)
    assert isinstance(text, SiglipText)
    assert text.reading == "minus"
    expected = SiglipText.from_model(siglip(kind), tokenizer()).embed("red?")
    assert_same_output(text.embed("red?"), expected, text.text_model)
    with torch.no_grad(), prune(model(GEMMA3), GridPrune(keep=4), clip=tmp_path, question="red?") as pruning:
        model(GEMMA3)(**GEMMA3.call([5, GEMMA3.image(0)]))
    assert pruning.reports[0].reading == "minus"


def test_the_wrong_text_tower_is_refused():
    text = SiglipText.from_model(siglip(), tokenizer())
    for case, given in ((LLAVA, text), (QWEN2_5_VL, text), (GEMMA3, clip_text())):
        with pytest.raises(CheckpointError, match="text"):
            prune(model(case), GridPrune(keep=4), clip=given, question="red?")
    with pytest.raises(CheckpointError, match="siglip-so400m"):
        SiglipText.load("/nowhere/at/all")
    headless = siglip()
    del next(m for m in headless.vision_model.modules() if hasattr(m, "head")).head
    with pytest.raises(CheckpointError, match="pooling head"):
        SiglipText.from_model(headless, tokenizer())


def test_without_it_embeddings_are_compared():
    with torch.no_grad(), prune(model(GEMMA3), GridPrune(keep=4), processor=tokenizer(), question="red?") as pruning:
        model(GEMMA3)(**GEMMA3.call([5, GEMMA3.image(0)]))
    assert "embeddings" in pruning.reports[0].relevance_source
