import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image

from gridprune.runtime import Loaded, load

from .tokens import byte_tokenizer
from .twins import TWINS, Twin


@pytest.fixture(scope="module", params=TWINS, ids=lambda twin: twin.name)
def twin(request) -> Twin:
    for package in request.param.needs:
        pytest.importorskip(package, reason=f"its stock processor needs {package}: make test-processors")
    return request.param


@pytest.fixture(scope="module")
def loaded(twin, tmp_path_factory) -> Loaded:
    """The twin, written to a folder as a checkpoint and read from it again."""
    folder = tmp_path_factory.mktemp(twin.name)
    torch.manual_seed(0)
    net = twin.model()
    for parameter in net.parameters():  # lively, so that ties and near-ties cannot hide a mistake
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.3)
    net.save_pretrained(folder)
    twin.processor().save_pretrained(folder)
    if twin.clip:
        _text_half(net).save_pretrained(folder / "clip")
        names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
        byte_tokenizer({"<s>": 1300, "</s>": 1301}, names, bos="<s>").save_pretrained(folder / "clip")
    return load(str(folder))


def _text_half(net):
    """A CLIP around the twin's own vision tower."""
    vision = net.config.vision_config
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    text |= {"vocab_size": 1302, "bos_token_id": 1300, "eos_token_id": 1301, "pad_token_id": 1301}
    clip = hf.CLIPModel(hf.CLIPConfig(vision_config=vision.to_dict(), text_config=text, projection_dim=8))
    tower = getattr(net.model.vision_tower, "vision_model", net.model.vision_tower)
    clip.vision_model.load_state_dict(tower.state_dict())
    return clip


@pytest.fixture(scope="session")
def image() -> Image.Image:
    """A wide image of smooth noise: several tiles, none of them black."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((640, 384), Image.Resampling.BICUBIC)
