"""Scripts set a default device and dtype for the whole process: nothing that is made here may hang on either."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import gridprune

PACKAGE = Path(gridprune.__file__).parent
FLOATS = {"empty", "eye", "linspace", "logspace", "ones", "rand", "randn", "zeros"}  # of the default dtype
MAKERS = FLOATS | {"arange", "as_tensor", "asarray", "full", "randint", "randperm", "scalar_tensor", "tensor"}
OWN_PROCESS = {"tiny", "speed"}  # how the embedded model is trained, and the benchmarks: scripts of ours


def implicit(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every call that makes a tensor and leaves its device, or a float's dtype, to the process."""
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if not (isinstance(node.func.value, ast.Name) and node.func.value.id == "torch" and node.func.attr in MAKERS):
            continue
        named = {keyword.arg for keyword in node.keywords}
        constants = {type(each.value) for each in ast.walk(node) if isinstance(each, ast.Constant)}
        floating = node.func.attr in FLOATS or float in constants
        if "device" not in named or (floating and "dtype" not in named):
            yield node.lineno, ast.unparse(node)


@pytest.mark.parametrize(
    ("call", "found"),
    [
        ("torch.zeros(3)", True),
        ("torch.zeros(3, dtype=torch.float32)", True),
        ("torch.zeros(3, device=x.device)", True),
        ("torch.tensor([0.5], device=x.device)", True),
        ("torch.arange(3, device='cpu')", False),
        ("torch.zeros(3, dtype=torch.bool, device=x.device)", False),
        ("x.new_zeros(3)", False),
    ],
)
def test_the_check_sees_what_it_should(call: str, found: bool) -> None:
    assert bool(list(implicit(call))) == found


def test_every_tensor_is_told_its_device_and_dtype() -> None:
    files = [file for file in PACKAGE.rglob("*.py") if file.relative_to(PACKAGE).parts[0] not in OWN_PROCESS]
    assert len(files) > 100
    found = [
        f"{file.relative_to(PACKAGE)}:{line}: {call}" for file in files for line, call in implicit(file.read_text())
    ]
    assert not found, "\n".join(["device= and, for floats, dtype= are missing:", *found])
