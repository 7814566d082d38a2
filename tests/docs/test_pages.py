"""Every code block of README and docs is run, page by page, in order; one that is not says why.

Blocks run as they are printed: folders with the embedded model stand under the names of the hub's checkpoints. Only
`.to("cuda")` is another device here.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]
# Pages whose blocks need something that has tests of its own.
ELSEWHERE = {"vllm.md": "tests/vllm", "reproduce.md": "tests/lmms"}
REASONS = {
    "it installs",
    "it serves until it is stopped",
    "it needs a GPU",
    "it needs trl",
    "it starts a cluster",
    "it takes minutes",
}
LLAVA = ("llava-hf/llava-1.5-7b-hf", "Qwen/Qwen2.5-VL-7B-Instruct", "MODEL")
CLIP = ("openai/clip-vit-large-patch14-336", "models/clip-text")
# What takes minutes as printed is asked for less: of several values the last one counts.
LESS = {
    "bench": "--batch 1 --keep 64 --rounds 1 --new-tokens 2 --methods gridprune",
    "eval": "--methods gridprune,random --keep 64 --questions 2",
    "sign": "--questions 8",
    "serve": "--dry-run",
}
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


def pages() -> dict[str, list[Block]]:
    """README and the pages of docs/ that have blocks and no tests elsewhere."""
    files = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    found = {file.relative_to(ROOT).as_posix(): blocks(file.read_text(encoding="utf-8")) for file in files}
    return {name: each for name, each in found.items() if each and name.removeprefix("docs/") not in ELSEWHERE}


PAGES = pages()
RUN = [name for name, each in PAGES.items() if any(block.reason is None for block in each)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where a reader would stand: examples/, checkpoints and images are there, results go elsewhere."""
    from gridprune.tiny import iter_examples
    from gridprune.tiny.loading import weights_folder

    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for names, part in ((LLAVA, "llava"), (CLIP, "clip")):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(weights_folder() / part, tmp_path / name)
    shutil.copyfile(ROOT / "examples" / "scene.png", tmp_path / "photo.jpg")
    (tmp_path / "photos").mkdir()
    lines = []
    for number, asked in enumerate(iter_examples("dev", 2)):
        asked.image.save(tmp_path / "photos" / f"{number}.png")
        line = {"image": f"photos/{number}.png", "question": asked.question, "answer": asked.answer}
        lines.append(json.dumps({**line, "boxes": [[10, 10, 60, 60]]}) + "\n")
    for name in ("questions.jsonl", "boxes.jsonl"):
        (tmp_path / name).write_text("".join(lines))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT's own call
@pytest.mark.parametrize("page", RUN)
def test_blocks_run(page, folder):
    names: dict[str, object] = {}
    run = [block for block in PAGES[page] if block.reason is None]
    for block in run:
        if block.kind == "python":
            code = compile("\n" * (block.line - 1) + block.code.replace('.to("cuda")', '.to("cpu")'), page, "exec")
            exec(code, names)
        elif block.kind == "bash":
            shell(block.code)
        elif block.kind != "text":  # a drawing in letters
            pytest.fail(f"{page}, line {block.line}: say python or bash, or why the block is not run")
    promised = re.findall(r" -o (\S+\.\w+)", "\n".join(block.code for block in run if block.kind == "bash"))
    assert all((folder / name).is_file() for name in promised)


def shell(code: str) -> None:
    """Lines of `gridprune ...`, in this process: starting Python anew for each would take most of the time."""
    from gridprune.cli.main import app

    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        assert words[0] == "gridprune", f"only gridprune is run, not {words[0]}"
        done = CliRunner().invoke(app, [*words[1:], *shlex.split(LESS.get(words[1], ""))])
        assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"


def test_what_is_not_run_says_why():
    reasons = [block.reason for each in PAGES.values() for block in each if block.reason is not None]
    assert set(reasons) <= REASONS
    assert len(reasons) <= 16


def test_readme_is_finished_by_a_reader_and_names_every_command():
    from typer.main import get_command

    from gridprune.cli.main import app

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") < 140
    assert "\nmake demo " in text  # the two commands that do all the set-up
    assert "\nmake test " in text
    assert [name for name in get_command(app).commands if f"gridprune {name}" not in text] == []


def test_blocks_are_found():
    text = "a\n\n```bash\nls\n```\n<!-- not run: far away -->\n```python\nx\n```\n"
    assert blocks(text) == [Block("bash", "ls\n", None, 4), Block("python", "x\n", "far away", 8)]
