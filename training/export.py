"""Standard checkpoints from the lean modules: CLIP, and LLaVA without the tower that it shares with CLIP."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from gridprune.tiny.checksums import digest
from training.embedded.loading import SUMS, tower_prefix
from training.embedded.scenes import GRID, PATCH, VIEW
from training.embedded.vocabulary import BOS, EOS, IMAGE, PAD, SPECIALS, SPELLINGS, SPLIT, VOCABULARY

from .clip import CLIP, MEAN, STD, TowerConfig
from .joint import Projector
from .lm import LanguageModel, LMConfig

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}</s>{% elif not loop.last or add_generation_prompt %}<ans>{% endif %}"
    "{% endfor %}"
)


def build_tokenizer(*, close: bool) -> PreTrainedTokenizerFast:
    """Word-level fast tokenizer, the same as ``encode``; ``close`` appends </s> as CLIP's text tower needs."""
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    capitals = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    steps = [normalizers.Replace(Regex(f"{c}(?=[A-Za-z])|(?<=[A-Za-z]){c}"), c.lower()) for c in capitals]
    steps += [normalizers.Replace(Regex(rf"\b{a}\b"), b) for a, b in SPELLINGS.items()]
    core.normalizer = normalizers.Sequence(steps)
    core.pre_tokenizer = pre_tokenizers.Split(Regex(SPLIT), behavior="removed", invert=True)
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


def build_processor() -> LlavaProcessor:
    """Images to 192 px, one image token grown to 576, chat template."""
    crop = {"height": VIEW, "width": VIEW}
    pixels: dict[str, Any] = {"size": {"shortest_edge": VIEW}, "crop_size": crop}
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(**pixels, image_mean=list(MEAN), image_std=list(STD)),
        tokenizer=build_tokenizer(close=False),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        num_additional_image_tokens=1,
    )


def vision_config(cfg: TowerConfig) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=cfg.width,
        intermediate_size=cfg.mlp,
        num_hidden_layers=cfg.layers,
        num_attention_heads=cfg.heads,
        projection_dim=cfg.projection,
        image_size=VIEW,
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


def _vision_state(clip: CLIP, prefix: str) -> dict[str, Tensor]:
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


def _fill(model: torch.nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a full state; buffers and tied copies are all that may be missing."""
    state = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    wrong = [name for name in missing if not name.endswith(("position_ids", "lm_head.weight", "inv_freq"))]
    if wrong or unexpected:
        raise RuntimeError(f"weights do not fit the architecture: missing {wrong}, unexpected {list(unexpected)}")


def to_clip(clip: CLIP) -> CLIPModel:
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
    _fill(model, state)
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


def to_llava(clip: CLIP, projector: Projector, lm: LanguageModel) -> LlavaForConditionalGeneration:
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
    state = _vision_state(clip, tower_prefix(model))
    for name, linear in zip(("linear_1", "linear_2"), projector.folded(), strict=True):
        state[f"model.multi_modal_projector.{name}.weight"] = linear.weight
        state[f"model.multi_modal_projector.{name}.bias"] = linear.bias
    state["model.language_model.embed_tokens.weight"] = lm.embed.weight
    state["model.language_model.norm.weight"] = lm.norm.weight
    for i, block in enumerate(lm.layers):
        for source, target in (
            ("norm1", "input_layernorm"), ("norm2", "post_attention_layernorm"), ("q", "self_attn.q_proj"),
            ("k", "self_attn.k_proj"), ("v", "self_attn.v_proj"), ("o", "self_attn.o_proj"),
            ("gate", "mlp.gate_proj"), ("up", "mlp.up_proj"), ("down", "mlp.down_proj"),
        ):  # fmt: skip
            state[f"model.language_model.layers.{i}.{target}.weight"] = getattr(block, source).weight
    _fill(model, state)
    model.tie_weights()
    model.generation_config.update(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, do_sample=False, max_new_tokens=24
    )
    return model


def write(folder: Path, clip: CLIPModel, llava: LlavaForConditionalGeneration) -> None:
    """Save both in bf16 with tokenizers, processor and checksums; the tower is stored with CLIP alone."""
    llava.to(torch.bfloat16).save_pretrained(folder / "llava")
    weights, prefix = folder / "llava" / "model.safetensors", tower_prefix(llava)
    towers = (prefix, prefix.removeprefix("model."))  # in memory, and as transformers writes it
    kept = {name: tensor for name, tensor in load_file(weights).items() if not name.startswith(towers)}
    save_file(kept, weights, metadata={"format": "pt"})
    build_processor().save_pretrained(folder / "llava")
    clip.to(torch.bfloat16).save_pretrained(folder / "clip")
    build_tokenizer(close=True).save_pretrained(folder / "clip")
    paths = sorted(path for name in ("clip", "llava") for path in (folder / name).rglob("*") if path.is_file())
    sums = {path.relative_to(folder).as_posix(): digest(path) for path in paths}
    (folder / SUMS).write_text(json.dumps(sums, indent=1) + "\n")
