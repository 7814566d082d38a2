"""Look into the wheel in dist/, install it into a fresh environment outside the repository, and use it there.

Arguments are handed on to pip.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
LICENCES = ["LICENSE", "src/gridprune/demo/photos/LICENSE.txt", "src/gridprune/tiny/assets/LICENSES.md"]
ONE_CALL = """
from PIL import Image
from gridprune import prune
from gridprune.runtime import SAMPLE, SAMPLE_QUESTION, load, prepare

loaded = load()
inputs = prepare(loaded, Image.open(SAMPLE), SAMPLE_QUESTION)
with prune(loaded.model, "gridprune", keep=64, processor=loaded.processor, clip=loaded.clip) as pruning:
    output = loaded.model.generate(**inputs, max_new_tokens=5)
print(pruning.report.kept, loaded.processor.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
"""


def check_contents(wheel: Path) -> str:
    """Everything that belongs into it is in it, and nothing else; the version."""
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
        (info,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
        about = message_from_bytes(packed.read(f"{info}/METADATA"))
    assert about.get_all("License-File") == LICENCES, about.get_all("License-File")
    assert {f"{info}/licenses/{name}" for name in LICENCES} <= set(names)
    assert {name.split("/")[0] for name in names} == {"gridprune", info}
    package = ROOT / "src"
    files = (file for file in (package / "gridprune").rglob("*") if file.is_file() and file.suffix != ".pyc")
    missing = {file.relative_to(package).as_posix() for file in files} - set(names)
    assert not missing, f"not in the wheel: {sorted(missing)}"
    return about["Version"]


def main() -> None:
    wheels = list((ROOT / "dist").glob("*.whl"))
    assert len(wheels) == 1, f"one wheel is wanted in dist/, not {len(wheels)}: make dist"
    version = check_contents(wheels[0])
    with TemporaryDirectory() as folder:
        started, scripts = time.monotonic(), Path(folder, "env", "Scripts" if os.name == "nt" else "bin")
        venv.create(Path(folder, "env"), with_pip=True)
        alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}

        def run(program: str, *arguments: str) -> str:
            print("$", program, *(argument.strip().split("\n")[0] for argument in arguments), flush=True)
            command = [str(scripts / program), *arguments]
            done = subprocess.run(command, cwd=folder, env=alone, stdout=subprocess.PIPE, text=True, check=True)
            return done.stdout.strip()

        pip = ("-m", "pip", "install", "-q", "--no-compile", *sys.argv[1:], "-c", str(ROOT / "constraints.txt"))
        run("python", *pip, "torch")
        run("python", *pip, str(wheels[0]))
        print(f"installed in {time.monotonic() - started:.0f} s")
        assert run("gridprune", "--version") == version
        assert run("gridprune", "ask", "--sample") == "stop"
        assert run("python", "-c", ONE_CALL) == "64 stop"
        assert "gridprune" in run("gridprune", "methods")
        assert "llava" in run("gridprune", "families")
        run("gridprune", "explain", "--sample", "-o", "kept.png")
        assert Path(folder, "kept.png").stat().st_size > 10_000
        print(f"{wheels[0].name} works in an environment of its own; {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
