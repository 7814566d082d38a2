"""`gridprune sign`: which end of the relevance points at what a question asks about."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import GridPruneError, SettingError
from .options import Clip, Device, DeviceMap, Dtype, Json, Model, load_model, print_json, stderr, stdout
from .questions import Data, Questions, Seed, data_set, form_of, progress


def sign_command(
    model: Model = "embedded",
    clip: Clip = None,
    data: Data = None,
    keep: Annotated[str, typer.Option("--keep", help="How many of the most relevant tokens are looked at.")] = "11.1%",
    questions: Questions = None,
    seed: Seed = 0,
    write: Annotated[bool, typer.Option("--write", help="Store a better reading in CLIP's gridprune.json.")] = False,
    device: Device = "auto",
    device_map: DeviceMap = None,
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Measure which end of CLIP's patch relevance points at what the question asks about: plus, minus, both, or the one
    that agrees with saliency."""
    from ..cues.text_tower import store_reading
    from ..eval import show, sign
    from ..methods.spec import parse_keeps

    budget = parse_keeps(keep)
    if len(budget) != 1:
        raise SettingError(f"--keep takes one budget here, got {keep!r}.")
    folder = _clip_folder(model, clip) if write else None
    asked = data_set(data, "dev", questions, seed, form_of(model))
    loaded = load_model(model, clip, device, dtype, device_map)
    with progress("measuring", asked.total) as advance:
        found = sign.measure(loaded, asked, budget[0], advance)
    if folder is not None and found["better"] is not None:
        stderr.print(f"stored in {store_reading(folder, found['better'])}", soft_wrap=True)
    elif folder is not None:
        stderr.print(f"nothing stored: no reading is better beyond chance than {found['in_use']!r}, which is in use")
    if as_json:
        print_json(found)
    else:
        show.sign(found, stdout)


def _clip_folder(model: str, clip: str | None) -> Path:
    """The local CLIP folder that a reading can be stored in."""
    from ..cues.load_text import find_beside
    from ..runtime.ask import EMBEDDED_FORMS

    if clip is not None:
        folder: Path | None = Path(clip)
    elif model in EMBEDDED_FORMS:
        from ..tiny.loading import weights_folder

        folder = weights_folder() / "clip"
    else:
        folder = find_beside(Path(model)) if Path(model).is_dir() else None
    if folder is None or not folder.is_dir():
        raise GridPruneError("--write needs a local CLIP folder: give --clip FOLDER (see `gridprune export-clip`).")
    return folder
