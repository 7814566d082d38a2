"""These tests need vLLM, which has an environment of its own: `make test-vllm`. Elsewhere the folder is skipped."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

_vllm = find_spec("vllm")  # without the package, this folder itself is found by that name, and has no origin
collect_ignore_glob = [] if _vllm and _vllm.origin else ["test_*.py"]
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

# One engine at a time, one thread, no network; engines in this process unless a test starts a server. Model Runner V2
# runs on Triton, whose kernels are interpreted here: see startup/triton_interpreter.
os.environ.update(
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_LOGGING_LEVEL="WARNING",
    HF_HUB_OFFLINE="1",
    OMP_NUM_THREADS="1",
    TRITON_INTERPRET="1",
)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny random checkpoint, written once."""
    from models import CASES

    root = tmp_path_factory.mktemp("checkpoints")

    def folder(name: str) -> Path:
        if not (root / name).is_dir():
            CASES[name].build(root / name)
        return root / name

    return folder


@pytest.fixture(scope="session", autouse=True)
def known_architectures() -> None:
    """Ours are registered as classes: given by name, vLLM looks at each in a process of its own, which takes long."""
    from importlib import import_module

    from vllm.model_executor.models import qwen3_vl
    from vllm.plugins import load_general_plugins

    from gridprune.vllm import ARCHITECTURES
    from vllm import ModelRegistry

    qwen3_vl.HAS_TRITON = False  # a kernel of its tower takes half a minute when interpreted; there is one without
    load_general_plugins()
    for architecture in ARCHITECTURES.values():
        assert architecture.name in ModelRegistry.models, "the entry point of gridprune is not installed"
        module, _, name = architecture.target.partition(":")
        ModelRegistry.register_model(architecture.name, getattr(import_module(module), name))
