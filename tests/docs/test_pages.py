"""Every code block of the pages that people follow is run, page by page, in order; one that is not says why."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]
HOWTO = ("checkpoint", "pipeline", "bench", "batches", "own-questions")
PAGES = ["start.md", "training.md", *(f"howto/{name}.md" for name in HOWTO)]
_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]+?) -->\n)?^```(?P<kind>\w*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)


class Block(NamedTuple):
    kind: str
    code: str
    reason: str | None
    line: int


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page, with the line each begins in."""
    return [
        Block(found["kind"], found["code"], found["reason"], text[: found.start("code")].count("\n") + 1)
        for found in _BLOCK.finditer(text)
    ]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where a reader would stand: examples/ is there, results go elsewhere."""
    (tmp_path / "examples").mkdir()
    for name in ("scene.png", "scene.txt"):
        (tmp_path / "examples" / name).write_bytes((ROOT / "examples" / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT's own call
@pytest.mark.parametrize("page", PAGES)
def test_blocks_run(page, folder):
    names: dict[str, object] = {}
    run = [block for block in blocks((ROOT / "docs" / page).read_text(encoding="utf-8")) if block.reason is None]
    assert run
    for block in run:
        if block.kind == "python":
            code = compile("\n" * (block.line - 1) + block.code, f"docs/{page}", "exec")
            exec(code, names)
        elif block.kind == "bash":
            shell(block.code)
        else:
            pytest.fail(f"docs/{page}, line {block.line}: say python or bash, or why the block is not run")
    promised = re.findall(r" -o (\S+)", "\n".join(block.code for block in run if block.kind == "bash"))
    assert all((folder / name).is_file() for name in promised)


def shell(code: str) -> None:
    """Lines of `gridprune ...`, in this process: starting Python anew for each would take most of the time."""
    from gridprune.cli.main import app

    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        assert words[0] == "gridprune", f"only gridprune is run, not {words[0]}"
        done = CliRunner().invoke(app, words[1:])
        assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"


def test_blocks_are_found():
    text = "a\n\n```bash\nls\n```\n<!-- not run: far away -->\n```python\nx\n```\n"
    assert blocks(text) == [Block("bash", "ls\n", None, 4), Block("python", "x\n", "far away", 8)]
