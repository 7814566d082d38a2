"""`gridprune plan`: what a model costs at N and at k visual tokens, from its configuration alone."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..core.budget import Budget
from ..runtime.plan import Load, parse_memory, parse_size, plan, read
from .options import Dtype, Json, print_json, stdout


def plan_command(
    model: Annotated[str, typer.Argument(help="'embedded', a checkpoint folder, or a hub id; no weights are read.")],
    keep: Annotated[str, typer.Option("--keep", help="Budgets: counts or shares, comma-separated.")] = "11.1%",
    size: Annotated[str, typer.Option("--size", help="Width x height of an image.")] = "1024x768",
    images: Annotated[int, typer.Option("--images", min=1, help="Images in a request.")] = 1,
    text: Annotated[int, typer.Option("--text", min=0, help="Text tokens of a request, its answer included.")] = 256,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="How many.")] = 1,
    gpu_memory: Annotated[str, typer.Option("--gpu-memory", help="Memory of one, such as 24GiB or 80GB.")] = "24GiB",
    utilization: Annotated[float, typer.Option("--utilization", help="Share of it for parameters and KV.")] = 0.9,
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Compute memory, images per GPU and prefill FLOPs at N and at k visual tokens from a checkpoint's config."""
    from transformers.utils import logging

    from ..methods.spec import parse_keeps

    logging.set_verbosity_error()
    pixels, keeps = parse_size(size), [Budget.parse(one) for one in parse_keeps(keep)]
    load = Load(images=images, text=text, gpus=gpus, memory=parse_memory(gpu_memory), utilization=utilization)
    found = plan(read(model, pixels, dtype), keeps, load) | {"size": list(pixels)}
    if as_json:
        print_json(found)
    else:
        _show(found)


def _show(found: dict[str, Any]) -> None:
    from rich.table import Table

    many = found["gpus"] > 1
    width, height = found["size"]
    stdout.print(
        f"{found['model']} ({found['family']}): {_short(found['parameters'])} parameters, "
        f"{_gib(found['parameter_bytes'])} in {found['dtype']}; {found['kv_bytes_per_token'] / 1024:g} KiB of keys and "
        f"values per token\na request: {found['request']['images']} image(s) of {width} x {height} and "
        f"{found['request']['text_tokens']} text tokens; {found['gpus']} GPU(s) of {_gib(found['gpu_memory'])}, "
        f"{found['utilization']:.0%} of it in use"
    )
    table = Table()
    columns = ["visual tokens", "in the prompt", "KV per image", "prefill FLOPs"]
    columns += ["at once, tensor parallel", "at once, data parallel"] if many else ["images at once"]
    for name in columns:
        table.add_column(name, justify="right")
    for row in (found["all"], *found["kept"]):
        ways = [row["tensor_parallel"], row["data_parallel"]] if many else [row["data_parallel"]]
        table.add_row(
            str(row["visual_tokens"]),
            str(row["prompt_tokens"]),
            f"{row['kv_bytes_per_image'] / 2**20:.1f} MiB",
            f"{row['prefill_flops'] / 1e12:.3g} T ({row['prefill_flops_ratio']:.1%})",
            *("-" if way is None else str(way["images"]) for way in ways),
        )
    stdout.print(table)
    for note in found["notes"]:
        stdout.print(f"note: {note}")
    stdout.print("Images at once are those whose keys and values fit; activations are not counted.", style="dim")


def _short(number: int) -> str:
    """Three digits, in billions or millions."""
    return f"{number / 1e9:.3g} B" if number >= 1e9 else f"{number / 1e6:.3g} M"


def _gib(amount: float) -> str:
    return f"{amount / 2**30:.2f} GiB"
