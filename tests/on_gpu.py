"""pytest plugin (`make test-gpu`): the family matrix with its models and prompts on a GPU."""

from __future__ import annotations

import functools
import sys

import pytest
import torch
from torch import nn

DEVICE = "cuda"


def pytest_configure(config):
    if not torch.cuda.is_available():
        raise pytest.UsageError("There is no CUDA device here; `make test` runs the same tests on the CPU.")


def moved(value):
    """Tensors of nested containers on the GPU; anything else as it is."""
    if torch.is_tensor(value):
        return value.to(DEVICE)
    if type(value) is dict:
        return {key: moved(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(moved(each) for each in value)
    return value


def _inputs(module, args, kwargs):
    return moved(args), moved(kwargs)


@functools.cache
def on_gpu(net):
    """The model on the GPU; tests hand it what they make on the CPU."""
    net.to(DEVICE)
    tables = (each for each in net.modules() if isinstance(each, nn.Embedding))
    for module in {net, net.model, *net.model.children(), *tables}:
        module.register_forward_pre_hook(_inputs, with_kwargs=True)
    return net


def pytest_collection_finish(session):
    from hf import kit

    stock = kit.model

    @functools.wraps(stock)
    def model(case):
        return on_gpu(stock(case))

    for module in [module for name, module in sys.modules.items() if name.startswith("hf.")]:
        for name, value in list(vars(module).items()):
            if value is stock:
                setattr(module, name, model)
    call = kit.Case.call
    kit.Case.call = lambda self, *rows, **settings: moved(call(self, *rows, **settings))

    def encoded(self, net, images):
        encoder = net.model.get_video_features if self.frames else net.model.get_image_features
        return encoder(**moved(self.vision([list(images)])), return_dict=True)

    kit.Case._encoded = encoded
