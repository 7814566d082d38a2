"""The page over other checkpoints: images in tiles, towers without a text half, grids that follow the image."""

from __future__ import annotations

import json

import pytest
import torch
import transformers as hf
from PIL import Image

from gridprune.demo.choice import Choice
from gridprune.demo.engine import Engine
from gridprune.demo.export import as_python, save
from gridprune.demo.session import Conversation, Session
from gridprune.demo.view import answers_html, maps_html
from gridprune.runtime import Loaded

VISION = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
TEXT = {**VISION, "num_key_value_heads": 2, "vocab_size": 120, "max_position_embeddings": 4096}
PINPOINTS = [[24, 48], [48, 24], [48, 48]]
TEMPLATE = (
    "{% for m in messages %}{% for c in m.content %}{% if c.type == 'image' %}<image>{% else %} {{ c.text }}{% endif %}"
    "{% endfor %}{% if m.role == 'assistant' %}</s>{% else %}<ans>{% endif %}{% endfor %}"
)


def llava_next(loaded: Loaded) -> Loaded:
    tokenizer, image_id = loaded.processor.tokenizer, loaded.model.config.image_token_id
    config = hf.LlavaNextConfig(
        vision_config=hf.CLIPVisionConfig(**VISION, image_size=24, patch_size=4),
        text_config=hf.LlamaConfig(**TEXT),
        image_token_id=image_id,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_grid_pinpoints=PINPOINTS,
    )
    images = hf.LlavaNextImageProcessor(
        size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}, image_grid_pinpoints=PINPOINTS
    )
    processor = hf.LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    return Loaded("tiles", hf.LlavaNextForConditionalGeneration(config).eval(), processor)


@pytest.fixture(scope="module")
def engine(loaded) -> Engine:
    torch.manual_seed(0)
    made = llava_next(loaded)
    made.model.generation_config.eos_token_id = None
    return Engine(made)


@pytest.mark.parametrize("size", [(64, 40), (30, 90), (50, 50)])
def test_images_in_tiles(engine, size):
    visitor = Session([Conversation(["own"], [Image.effect_noise(size, 90).convert("RGB")])])
    visitor.ask(engine, "Where is the key?", Choice(keep=20, method="fastervlm", compare="uniform"), False)
    visitor.again(engine, Choice(keep=12, method="fastervlm", compare="uniform"))
    turn = visitor.conversation.turn
    assert [column.answer.visual_tokens for column in turn.columns] == [turn.total, 12, 12]
    assert [turn.total] == engine.tokens(visitor.conversation.images)
    (seen,) = turn.seen
    assert seen.relevance is None  # no text half of CLIP beside it
    assert len(seen.saliency) == turn.total
    assert "this model gives no relevance" in maps_html(visitor.conversation, turn)
    answers_html(turn)
    told = json.loads(save(engine, visitor.conversation, "json")[0])
    assert len(told["answers"][1]["kept_indices"]) == 12
    assert "load('tiles')" in as_python(engine, visitor.conversation, turn)


def test_only_what_the_model_can_do_is_offered(engine):
    assert {"fastervlm", "random", "divprune"} <= set(engine.methods)
    assert not {"gridprune", "relevance", "trim", "keep-all"} & set(engine.methods)
