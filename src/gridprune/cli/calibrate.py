"""`gridprune calibrate`: how much each head of the language model's first attention layer counts in relevance."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import GridPruneError, SettingError
from .options import Clip, Device, DeviceMap, Dtype, Json, Model, load_model, print_json, stderr, stdout
from .questions import Data, Questions, Seed, data_set, form_of, progress


def calibrate_command(
    model: Model = "embedded",
    clip: Clip = None,
    data: Data = None,
    keep: Annotated[str, typer.Option("--keep", help="How many of the most relevant tokens are kept.")] = "11.1%",
    questions: Questions = None,
    seed: Seed = 0,
    write: Annotated[bool, typer.Option("--write", help="Store better weights in the model's gridprune.json.")] = False,
    device: Device = "auto",
    device_map: DeviceMap = None,
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Find how much each head of the language model's first attention layer counts for `hawk` and `first-layer(...)`,
    from a few dozen questions with boxes or, slower, with answers only."""
    from ..cues.notes import note
    from ..eval import calibrate, show
    from ..methods.spec import parse_keeps

    budget = parse_keeps(keep)
    if len(budget) != 1:
        raise SettingError(f"--keep takes one budget here, got {keep!r}.")
    folder = _folder(model) if write else None
    asked = data_set(data, "dev", questions, seed, form_of(model))
    loaded = load_model(model, clip, device, dtype, device_map)
    with progress("measuring", asked.total) as advance:
        found = calibrate.measure(loaded, asked, budget[0], advance)
    if folder is not None and found["better"]:
        stderr.print(f"stored in {note(folder, head_weights=found['weights'])}", soft_wrap=True)
    elif folder is not None:
        stderr.print("nothing stored: calibrated weights are not better beyond chance than equal ones")
    if as_json:
        print_json(found)
    else:
        show.calibrate(found, stdout)


def _folder(model: str) -> Path:
    """The local folder of a checkpoint that weights can be stored in."""
    from ..runtime.ask import EMBEDDED_FORMS

    if model in EMBEDDED_FORMS:
        from ..tiny.loading import checkpoint_folder

        return checkpoint_folder(EMBEDDED_FORMS[model])
    for folder in (Path(model) / "llava", Path(model)):  # as `load_model` finds it
        if (folder / "config.json").is_file():
            return folder
    raise GridPruneError(
        f"--write needs the local folder of a checkpoint, and {model!r} is none. Without --write, better weights are "
        "printed as hawk(weights=[...]) to paste."
    )
