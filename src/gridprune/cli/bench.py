"""`gridprune bench`: what pruning gains on a model of your own, on your own machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Clip, Device, DeviceMap, Dtype, Json, Model, load_model, print_json, stderr, stdout, telling


def bench_command(
    model: Model = "embedded",
    clip: Clip = None,
    methods: Annotated[
        str, typer.Option("--methods", help="Comma-separated, with settings in parentheses if you like.")
    ] = "gridprune,fastervlm,random",
    keep: Annotated[str, typer.Option("--keep", help="Budgets: counts or shares, comma-separated.")] = "11.1%",
    batch: Annotated[str, typer.Option("--batch", help="Images at once, comma-separated.")] = "1,4",
    image: Annotated[
        Path | None, typer.Option("--image", help="A typical image of yours; noise of 1024 x 768 without it.")
    ] = None,
    question: Annotated[str, typer.Option("--question", help="A typical question of yours.")] = "What is there?",
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=1, help="Interleaved rounds; 3 on a CPU and 15 on a GPU by default.")
    ] = None,
    tokens: Annotated[int, typer.Option("--new-tokens", min=2, help="Length of an answer.")] = 16,
    static: Annotated[
        bool, typer.Option("--static-cache", help="Also answer with a static cache; a GPU compiles its decoding.")
    ] = False,
    largest: Annotated[bool, typer.Option("--largest", help="Also look for the largest batch that fits.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Draw the plot to this PNG file.")] = None,
    device: Device = "auto",
    device_map: DeviceMap = None,
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Measure time and memory of a model, pruned and not, in one interleaved run on this machine."""
    from PIL import Image

    from ..bench import run, show
    from ..files import check_output
    from ..methods.spec import parse_keeps
    from ..runtime.images import read_image

    chosen, keeps, batches = run.parse_methods(methods), parse_keeps(keep), run.parse_batches(batch)
    where = run.check_device(device, largest)
    check_output(output, (".png",))
    rounds = rounds or (3 if where.type == "cpu" else 15)
    seen = read_image(image) if image is not None else Image.effect_noise((1024, 768), 60).convert("RGB")
    plan = run.Bench(chosen, keeps, batches, seen, question, rounds, tokens, static, largest)
    loaded = load_model(model, clip, str(where) if device_map is None else device, dtype, device_map)
    with telling("measuring") as progress:
        found = run.bench(loaded, plan, progress)
    if output is not None:
        show.save(found, output)
        stderr.print(f"plot in {output}", soft_wrap=True)
    if as_json:
        print_json(found)
    else:
        show.table(found, stdout)
