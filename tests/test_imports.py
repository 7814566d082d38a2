"""What importing costs: nothing heavy comes before it is used."""

import json
import subprocess
import sys

import pytest

_HEAVY = ("torch", "transformers", "gradio", "numpy", "matplotlib", "PIL")
_CODE = "import json, sys\nimport {}\nprint(json.dumps([name for name in {} if name in sys.modules]))"


@pytest.mark.parametrize("module", ["gridprune", "gridprune.cli"])
def test_imports_nothing_heavy(module):
    code = _CODE.format(module, _HEAVY)
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(found) == []
