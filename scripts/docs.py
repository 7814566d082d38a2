"""Build the documentation site into site/: stage the pages, run the notebooks, build strictly, keep it closed.

build/docs gets docs/, LAB.md and CONTRIBUTING.md, the notebooks of docs/ as they ran, and pages that the code
writes: the command line, and the classes of all methods. The reference is read from a copy of the sources in build/src,
in which roles such as :class:`Budget` are plain words.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAGE, SOURCES, SITE = ROOT / "build" / "docs", ROOT / "build" / "src", ROOT / "site"
WRITTEN = {"lab.md", "contributing.md", "reference/command-line.md", "reference/all-methods.md"}
_ALL_COMMANDS = """`gridprune COMMAND -h` explains a command, `gridprune --version` says which one is installed.
What a command writes is named by `-o`; where there is `--json`, it prints one JSON object and nothing else.
`gridprune --install-completion` teaches your shell (bash, zsh, fish, PowerShell) to complete commands and options with
the Tab key.
"""
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):`~?([^`]+)`")
_SHIM = re.compile(r'https://unpkg\.com/iframe-worker/shim(?=")')
_FROM_OUTSIDE = re.compile(r'<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)="(?:https?:)?//[^"]+"')


def stage() -> None:
    """Everything that the site is made of, in build/."""
    for folder in (STAGE, SOURCES, SITE):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "docs", STAGE, ignore=shutil.ignore_patterns("*.ipynb"))
    for name in ("LAB.md", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")  # there they stand beside the pages
        (STAGE / name.lower()).write_text(text, encoding="utf-8")
    (STAGE / "reference" / "command-line.md").write_text(command_line(), encoding="utf-8")
    (STAGE / "reference" / "all-methods.md").write_text(all_methods(), encoding="utf-8")
    for file in sorted((ROOT / "src").rglob("*.py")):
        target = SOURCES / file.relative_to(ROOT / "src")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(_ROLE.sub(lambda role: f"`{role[1]}`", file.read_text(encoding="utf-8")), encoding="utf-8")
    for notebook in sorted((ROOT / "docs").rglob("*.ipynb")):
        run_notebook(notebook, (STAGE / notebook.relative_to(ROOT / "docs")).with_suffix(".md"))


def run_notebook(source: Path, target: Path) -> None:
    """Run a notebook from the root of the tree and write it as a page; an error in a cell ends the build."""
    import nbformat
    from nbclient import NotebookClient
    from traitlets.config import Config

    notebook = nbformat.read(source, as_version=4)
    quiet = Config({"ConnectionFileMixin": {"transport": "ipc"}})  # no port is opened
    where = {"metadata": {"path": str(ROOT)}}
    client = NotebookClient(notebook, config=quiet, timeout=600, coalesce_streams=True, resources=where)
    commands = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # `gridprune` of this environment
    client.execute(env={**os.environ, "PATH": commands, "COLUMNS": "100"})
    images = target.parent / target.stem
    parts = [f"*This page is [a notebook]({source.name}) that is run whenever the site is built.*"]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        parts += [shown for output in cell.outputs if (shown := _output(output, images, len(parts)))]
    target.write_text("\n\n".join([parts[1], parts[0], *parts[2:]]) + "\n", encoding="utf-8")
    shutil.copyfile(source, target.with_name(source.name))


def _output(output: dict, images: Path, number: int) -> str:
    """What a cell printed or returned; warnings and progress bars are for the one who runs it."""
    if output["output_type"] == "stream":
        return f"```text\n{_COLOURS.sub('', output['text']).rstrip()}\n```" if output["name"] == "stdout" else ""
    data = output.get("data", {})
    if "image/png" in data:
        import base64

        images.mkdir(parents=True, exist_ok=True)
        (images / f"{number}.png").write_bytes(base64.b64decode(data["image/png"]))
        return f"![what the cell above shows]({images.name}/{number}.png)"
    return f"```text\n{data['text/plain']}\n```" if "text/plain" in data else ""


def command_line() -> str:
    """Every command with its options, as Typer documents it."""
    command = [sys.executable, "-m", "typer", "gridprune.cli", "utils", "docs", "--name", "gridprune"]
    text = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    return text.replace("# `gridprune`", f"# Command line\n\n{_ALL_COMMANDS}", 1)


def all_methods() -> str:
    """The docstrings of all registered methods, by file."""
    from gridprune.methods import registry

    modules = dict.fromkeys(registry.get(name).__module__ for name in registry.available())
    own = [module for module in modules if module.startswith("gridprune.")]
    return "# All methods\n\n" + "\n\n".join(f"::: {module}" for module in own) + "\n"


def build() -> None:
    """Run the generator; a warning is an error."""
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--clean", "--strict"]
    if subprocess.run(command, cwd=ROOT).returncode:
        raise SystemExit("The site was not built: see the warnings above.")


def close() -> None:
    """Nothing may come from outside: the shim for search from disk is our own copy.

    Raises:
        SystemExit: a page fetches something.
    """
    open_pages = []
    for page in sorted(SITE.rglob("*.html")):
        text = page.read_text(encoding="utf-8")
        up = "../" * (len(page.relative_to(SITE).parts) - 1)
        text = _SHIM.sub(f"{up}assets/iframe-worker.js", text)
        page.write_text(text, encoding="utf-8")
        open_pages += [
            f"{page.relative_to(SITE)}: {found}" for found in _FROM_OUTSIDE.findall(text) if "canonical" not in found
        ]
    if open_pages:
        raise SystemExit("The site fetches from outside:\n" + "\n".join(open_pages))


def listed() -> None:
    """Every page stands in the navigation.

    Raises:
        SystemExit: one does not, or one is named that is not there.
    """
    named = set(re.findall(r'"([\w/-]+\.md)"', (ROOT / "zensical.toml").read_text(encoding="utf-8")))
    files = [file.relative_to(ROOT / "docs") for kind in ("md", "ipynb") for file in (ROOT / "docs").rglob(f"*.{kind}")]
    pages = {file.with_suffix(".md").as_posix() for file in files} | WRITTEN
    if pages != named:
        only = ", ".join(sorted(pages ^ named))
        raise SystemExit(f"The pages and the navigation in zensical.toml differ in: {only}")


def main() -> None:
    listed()
    stage()
    build()
    close()
    print(f"open {SITE.relative_to(ROOT)}/index.html")


if __name__ == "__main__":
    main()
