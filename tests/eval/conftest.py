"""A LLaVA of the embedded model's shape with small random weights: what it says means nothing, but always the same."""

from __future__ import annotations

import pytest
import torch

from gridprune.cues.clip_text import ClipText
from gridprune.runtime import Loaded


@pytest.fixture(scope="session")
def loaded() -> Loaded:
    from training.boxes.clip import TinyCLIP, TowerConfig
    from training.boxes.export import build_processor, build_tokenizer, to_clip, to_llava
    from training.boxes.joint import Projector
    from training.boxes.lm import LMConfig, TinyLM

    torch.manual_seed(0)
    clip = TinyCLIP(TowerConfig(layers=3, mlp=64))
    lm = TinyLM(LMConfig(width=64, layers=2, heads=2, mlp=96))
    with torch.no_grad():
        for block in lm.layers:  # what is attended to decides, more than the last word
            block.o.weight.mul_(30)
    llava = to_llava(clip, Projector(192, 64), lm)
    llava.lm_head.weight = torch.nn.Parameter(torch.randn(llava.lm_head.weight.shape))  # no echo of the last word
    llava.generation_config.max_new_tokens = 4
    text = ClipText.from_model(to_clip(clip), build_tokenizer(close=True), "plus")
    return Loaded("random", llava, build_processor(), text)
