"""Standard checkpoints from the lean modules: CLIP and LLaVA folders that plain transformers loads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from gridprune.core.reading import Reading
from gridprune.cues.text_tower import store_reading
from gridprune.tiny.checksums import digest
from gridprune.tiny.forms import NEXT
from gridprune.tiny.scenes import GRID, PATCH, SIDE
from gridprune.tiny.vocabulary import BOS, CAPITALS, EOS, IMAGE, PAD, SPECIALS, VOCABULARY

from .clip import MEAN, STD, TinyCLIP, TowerConfig
from .joint import Projector
from .lm import LMConfig, TinyLM
from .next import NextModel

CHECKPOINTS = ("llava", "clip", "llava-next")
Llava = LlavaForConditionalGeneration | LlavaNextForConditionalGeneration
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}</s>{% elif not loop.last or add_generation_prompt %}<ans>{% endif %}"
    "{% endfor %}"
)


def build_tokenizer(*, close: bool) -> PreTrainedTokenizerFast:
    """Word-level fast tokenizer; ``close`` appends </s> as CLIP's text tower needs."""
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    lower = [normalizers.Replace(Regex(pattern), letter.lower()) for letter, pattern in CAPITALS.items()]
    core.normalizer = normalizers.Sequence(lower)
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), behavior="removed", invert=True)
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if close else "<s> $A", special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=[SPECIALS[IMAGE], "<ans>"],
        model_max_length=77 if close else 4096,
        padding_side="right" if close else "left",
        clean_up_tokenization_spaces=False,
    )


def _pixels() -> dict[str, Any]:
    """Settings of both image processors: views of 192 px."""
    crop = {"height": SIDE, "width": SIDE}
    return {"size": {"shortest_edge": SIDE}, "crop_size": crop, "image_mean": list(MEAN), "image_std": list(STD)}


def _words() -> dict[str, Any]:
    """Settings of both processors: tokenizer, chat template, one token a patch of a view."""
    return {
        "tokenizer": build_tokenizer(close=False),
        "patch_size": PATCH,
        "vision_feature_select_strategy": "default",
        "chat_template": CHAT_TEMPLATE,
        "num_additional_image_tokens": 1,
    }


def build_processor() -> LlavaProcessor:
    """Images to 192 px, one image token grown to 576, chat template."""
    return LlavaProcessor(image_processor=CLIPImageProcessorPil(**_pixels()), **_words())


def build_next_processor() -> LlavaNextProcessor:
    """Overview and 2x2 tiles of 192 px, one image token grown to 2880 and the newlines, chat template."""
    image_processor = LlavaNextImageProcessorPil(**_pixels(), image_grid_pinpoints=[[NEXT.side, NEXT.side]])
    return LlavaNextProcessor(image_processor=image_processor, **_words())


def vision_config(cfg: TowerConfig) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=cfg.width,
        intermediate_size=cfg.mlp,
        num_hidden_layers=cfg.layers,
        num_attention_heads=cfg.heads,
        projection_dim=cfg.projection,
        image_size=SIDE,
        patch_size=PATCH,
        hidden_act="gelu",
        layer_norm_eps=cfg.eps,
    )


def _layer(prefix: str, layer: torch.nn.Module) -> dict[str, Tensor]:
    """Weights of one block under transformers' names."""
    attention = ("q_proj", "k_proj", "v_proj", "out_proj")
    out = {}
    for name, tensor in layer.state_dict().items():
        group = "self_attn." if name.split(".")[0] in attention else "mlp." if name[:2] == "fc" else ""
        out[f"{prefix}.{group}{name}"] = tensor
    return out


def _vision_state(clip: TinyCLIP, prefix: str) -> dict[str, Tensor]:
    tower = clip.vision
    out = {
        "embeddings.class_embedding": tower.cls,
        "embeddings.patch_embedding.weight": tower.patch.weight.view(-1, 3, PATCH, PATCH),
        "embeddings.position_embedding.weight": tower.position,
        "pre_layrnorm.weight": tower.pre.weight,
        "pre_layrnorm.bias": tower.pre.bias,
        "post_layernorm.weight": tower.post.weight,
        "post_layernorm.bias": tower.post.bias,
    }
    for i, layer in enumerate(tower.layers):
        out.update(_layer(f"encoder.layers.{i}", layer))
    return {f"{prefix}{name}": tensor for name, tensor in out.items()}


def _load(model: torch.nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a full state; buffers and tied copies are all that may be missing."""
    state = {name: tensor.detach().clone() for name, tensor in state.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    wrong = [name for name in missing if not name.endswith(("position_ids", "lm_head.weight", "inv_freq"))]
    if wrong or unexpected:
        raise RuntimeError(f"weights do not fit the architecture: missing {wrong}, unexpected {list(unexpected)}")


def to_clip(clip: TinyCLIP) -> CLIPModel:
    """The towers as ``CLIPModel``, fp32."""
    cfg = clip.cfg
    config = CLIPConfig(
        text_config={
            "vocab_size": len(VOCABULARY),
            "hidden_size": cfg.text_width,
            "intermediate_size": cfg.text_mlp,
            "num_hidden_layers": cfg.text_layers,
            "num_attention_heads": cfg.text_heads,
            "max_position_embeddings": cfg.text_length,
            "projection_dim": cfg.projection,
            "hidden_act": "gelu",
            "layer_norm_eps": cfg.eps,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "pad_token_id": PAD,
        },
        vision_config=vision_config(cfg).to_dict(),
        projection_dim=cfg.projection,
    )
    text = clip.text
    state = {
        "logit_scale": clip.logit_scale,
        "visual_projection.weight": clip.visual_projection.weight,
        "text_projection.weight": clip.text_projection.weight,
        "text_model.embeddings.token_embedding.weight": text.embed.weight,
        "text_model.embeddings.position_embedding.weight": text.position,
        "text_model.final_layer_norm.weight": text.norm.weight,
        "text_model.final_layer_norm.bias": text.norm.bias,
        **_vision_state(clip, "vision_model."),
    }
    for i, layer in enumerate(text.layers):
        state.update(_layer(f"text_model.encoder.layers.{i}", layer))
    model = CLIPModel(config).eval()
    _load(model, state)
    return model


def to_llava(clip: TinyCLIP, projector: Projector, lm: TinyLM) -> LlavaForConditionalGeneration:
    """Tower, projector (with the feature statistics folded in) and language model, fp32."""
    config = LlavaConfig(
        vision_config=vision_config(clip.cfg),
        text_config=text_config(lm.cfg),
        image_token_id=IMAGE,
        image_seq_length=GRID * GRID,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config).eval()
    _fill(model, clip, projector, lm)
    return model


def to_llava_next(clip: TinyCLIP, trained: NextModel) -> LlavaNextForConditionalGeneration:
    """The same classes of weights and the newline token, fp32."""
    lm = trained.joint.lm
    config = LlavaNextConfig(
        vision_config=vision_config(clip.cfg),
        text_config=text_config(lm.cfg),
        image_token_id=IMAGE,
        image_seq_length=GRID * GRID,
        image_grid_pinpoints=[[NEXT.side, NEXT.side]],
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=True,
    )
    model = LlavaNextForConditionalGeneration(config).eval()
    _fill(model, clip, trained.joint.projector, lm, {"model.image_newline": trained.newline})
    return model


def text_config(cfg: LMConfig) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=cfg.width,
        intermediate_size=cfg.mlp,
        num_hidden_layers=cfg.layers,
        num_attention_heads=cfg.heads,
        num_key_value_heads=cfg.heads,
        head_dim=cfg.head_dim,
        rms_norm_eps=cfg.eps,
        rope_parameters={"rope_type": "default", "rope_theta": cfg.theta},
        max_position_embeddings=4096,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        tie_word_embeddings=True,
    )


def _fill(
    model: Llava, clip: TinyCLIP, projector: Projector, lm: TinyLM, more: Mapping[str, Tensor] = MappingProxyType({})
) -> None:
    """Load the weights, tie the embeddings, set greedy generation."""
    first, second = projector.folded()
    tower = next(name for name in model.state_dict() if name.endswith("embeddings.class_embedding"))
    state = _vision_state(clip, tower.removesuffix("embeddings.class_embedding")) | more
    for name, linear in (("linear_1", first), ("linear_2", second)):
        state[f"model.multi_modal_projector.{name}.weight"] = linear.weight
        state[f"model.multi_modal_projector.{name}.bias"] = linear.bias
    state["model.language_model.embed_tokens.weight"] = lm.embed.weight
    state["model.language_model.norm.weight"] = lm.norm.weight
    for i, block in enumerate(lm.layers):
        base = f"model.language_model.layers.{i}"
        for source, target in (
            ("norm1", "input_layernorm"), ("norm2", "post_attention_layernorm"), ("q", "self_attn.q_proj"),
            ("k", "self_attn.k_proj"), ("v", "self_attn.v_proj"), ("o", "self_attn.o_proj"),
            ("gate", "mlp.gate_proj"), ("up", "mlp.up_proj"), ("down", "mlp.down_proj"),
        ):  # fmt: skip
            state[f"{base}.{target}.weight"] = getattr(block, source).weight
    _load(model, state)
    model.tie_weights()
    model.generation_config.update(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, do_sample=False, max_new_tokens=24
    )


READING: Reading = "plus"  # the tower is trained to give patches that the question is about the higher cosine


def write(
    folder: Path,
    clip: CLIPModel,
    llava: LlavaForConditionalGeneration,
    llava_next: LlavaNextForConditionalGeneration | None = None,
) -> None:
    """Save the checkpoints in bf16 with tokenizers, processors and ``checksums.json``."""
    llava.to(torch.bfloat16).save_pretrained(folder / "llava")
    build_processor().save_pretrained(folder / "llava")
    clip.to(torch.bfloat16).save_pretrained(folder / "clip")
    build_tokenizer(close=True).save_pretrained(folder / "clip")
    if llava_next is not None:
        llava_next.to(torch.bfloat16).save_pretrained(folder / "llava-next")
        build_next_processor().save_pretrained(folder / "llava-next")
    paths = sorted(p for name in CHECKPOINTS for p in (folder / name).rglob("*") if p.is_file())
    sums = {path.relative_to(folder).as_posix(): digest(path) for path in paths}
    (folder / "checksums.json").write_text(json.dumps(sums, indent=1) + "\n")
    store_reading(folder / "clip", READING)  # behind the checksums: `gridprune sign --write` may change it
