"""One thread: the tensors are small."""

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("core", deadline=None, max_examples=120, derandomize=True)
settings.load_profile("core")
