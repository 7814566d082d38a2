"""Quantised models: what is pruned is what the quantised stock model says of the same tokens. Where a backend is not
installed its tests are skipped; `make test-processors` installs them."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from transformers import BitsAndBytesConfig, TorchAoConfig

from gridprune.compat import pretrained
from gridprune.runtime import load
from rounding import assert_same_output

from .kit import Case, reference
from .models import QWEN2_5_VL, square
from .test_contract import forward, one


def eight_bits():
    return BitsAndBytesConfig(load_in_8bit=True)


def four_bits():
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")


def torchao():
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


# Kernels for four bits want wider layers than the test kit's models have.
EMBEDDED = Case(
    "embedded",
    lambda: load().model,
    lambda image: [4] * 576,
    partial(square, side=192),
    ((192, 192),),
    placeholder=4,
)


@pytest.mark.parametrize(
    ("backend", "config", "case"),
    [
        ("bitsandbytes", eight_bits, EMBEDDED),
        ("bitsandbytes", eight_bits, QWEN2_5_VL),
        ("bitsandbytes", four_bits, EMBEDDED),
        ("torchao", torchao, EMBEDDED),
        ("torchao", torchao, QWEN2_5_VL),
    ],
    ids=lambda value: getattr(value, "name", getattr(value, "__name__", value)),
)
def test_what_is_pruned_is_what_the_quantised_model_says(backend, config, case, tmp_path):
    pytest.importorskip(backend)
    stock = case.build()
    stock.save_pretrained(tmp_path / "full")
    options = {"device_map": "cpu", "dtype": torch.float32}
    quantised = pretrained(type(stock), tmp_path / "full", quantization_config=config(), **options)
    quantised.save_pretrained(tmp_path / "quantised")
    net = pretrained(type(stock), tmp_path / "quantised", **options)
    assert any("int" in str(weight.dtype) or "Tensor" in type(weight).__name__ for weight in net.parameters())
    row = one(case)
    output, masks = forward(net, case.call(row))
    assert not bool(masks[0].all())
    expected = reference(case, net, row, masks).logits[0, -1]
    assert_same_output(output.logits[0, -1], expected, net)
