"""The command line: `gridprune ask | explain | methods | eval | ...`. Heavy imports happen inside commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.cli import bench_command
from training.boxes.cli import app as tiny_app

from ..errors import GridPruneError
from ..runtime.batch import batch_command
from ..runtime.packages import check_torchvision
from ..runtime.plan import plan_command
from .demo import demo_command
from .eval import eval_command, results_command, sign_command
from .report import report_command
from .serve import serve_command

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

    from ..methods.base import Method
    from ..runtime.ask import Answer, Loaded
    from ..runtime.video import Video

    Opened = tuple[Picture | Video, Loaded]

app = typer.Typer(
    name="gridprune",
    help="Training-free pruning of visual tokens for multimodal LLMs: guide globally, select locally.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
stderr = Console(stderr=True)

Image = Annotated[
    Path,
    typer.Argument(help="A picture (PNG, JPEG, WebP, GIF, BMP, TIFF), or a clip (MP4, MOV, WebM).", show_default=False),
]
Question = Annotated[str, typer.Argument(help="What to ask about it.", show_default=False)]
Model = Annotated[str, typer.Option("--model", help="'embedded', a checkpoint folder, or a hub id.")]
MethodName = Annotated[
    str, typer.Option("--method", help="See `gridprune methods`; with settings: 'gridprune(zone=2, alpha=0)'.")
]
Keep = Annotated[str, typer.Option("--keep", help="Visual tokens to keep: a count (64) or a share (11.1%).")]
Clip = Annotated[
    str | None,
    typer.Option("--clip", help="CLIP or SigLIP text half: a folder or a hub id. Found by itself beside a checkpoint."),
]
Frames = Annotated[int, typer.Option("--frames", min=1, help="Frames taken of a clip, spread evenly over it.")]
Device = Annotated[str, typer.Option("--device", help="A torch device, such as cpu or cuda.")]
Dtype = Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout and nothing else.")]


def _reported(command: Callable[..., None]) -> Callable[..., None]:
    """Our own errors become one clear message on stderr and exit code 2; others keep their traceback."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            with _torchvision_named():
                command(*args, **kwargs)
        except GridPruneError as error:
            stderr.print(f"[red]error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
            raise typer.Exit(2) from None

    return run


@contextmanager
def _torchvision_named() -> Iterator[None]:
    """Where something fails because torchvision does not fit torch, say that instead."""
    try:
        yield
    except (GridPruneError, typer.Exit):
        raise
    except Exception:
        check_torchvision()
        raise


def _method(name: str, keep: str) -> Method:
    from ..methods.spec import parse

    return parse(name).method(keep)


def _quiet() -> None:
    """Notices of transformers would spoil a terminal; its errors still come through."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _opened(image: Path, frames: int, model: str, clip: str | None, device: str, dtype: str) -> Opened:
    """What `ask` and `explain` look at, and the model they ask. The file is read first: that is where people err."""
    from ..runtime.images import read_image
    from ..runtime.video import is_video, read_video

    seen = read_video(image, frames) if is_video(image) else read_image(image)
    from ..runtime.ask import load

    _quiet()
    with stderr.status("loading the model"):
        return seen, load(model, clip=clip, device=device, dtype=dtype)


@app.command()
@_reported
def ask(
    image: Image,
    question: Question,
    model: Model = "embedded",
    method: MethodName = "gridprune",
    keep: Keep = "11.1%",
    frames: Frames = 8,
    compare: Annotated[bool, typer.Option("--compare", help="Also answer with all visual tokens.")] = False,
    overlay: Annotated[Path | None, typer.Option("--overlay", "-o", help="Write a picture of the kept tokens.")] = None,
    clip: Clip = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Answer a question about a picture or a clip with a part of its visual tokens."""
    chosen = _method(method, keep)
    picture, loaded = _opened(image, frames, model, clip, device, dtype)
    from ..runtime.ask import answer

    with stderr.status("answering"):
        if (
            compare
        ):  # first calls pay for allocations and for the question's embedding: timed is what a second one costs
            answer(loaded, picture, question, max_new_tokens=1)
            answer(loaded, picture, question, chosen, max_new_tokens=1)
        full = answer(loaded, picture, question, max_new_tokens=max_new_tokens) if compare else None
        pruned = answer(loaded, picture, question, chosen, max_new_tokens=max_new_tokens)
    assert pruned.report is not None
    if overlay is not None:
        pruned.report.save(overlay)
        stderr.print(f"kept tokens drawn in {overlay}", highlight=False)
    if as_json:
        _print_json(_ask_result(question, model, pruned, full))
        return
    if full is None:
        print(pruned.text)
        return
    _print_comparison(question, full, pruned)


def _ask_result(question: str, model: str, pruned: Answer, full: Answer | None) -> dict[str, Any]:
    report = pruned.report
    assert report is not None
    described = report.to_dict()
    result: dict[str, Any] = {
        "answer": pruned.text,
        "question": question,
        "model": model,
        "method": report.method,
        "settings": described["settings"],
        "visual_tokens": described["visual_tokens"],
        "images": [{key: described[key] for key in ("grid", "kept_indices", "zone_budgets")}],
        "seconds": pruned.seconds,
        "decision_seconds": report.decision_seconds,
        "layer_average": report.layer_average,
        "kv_bytes": pruned.kv_bytes,
    }
    if full is not None:
        tokens = {"total": report.total, "kept": report.total}
        result["full"] = {
            "answer": full.text, "visual_tokens": tokens, "seconds": full.seconds, "kv_bytes": full.kv_bytes
        }  # fmt: skip
    return result


def _print_comparison(question: str, full: Answer, pruned: Answer) -> None:
    assert pruned.report is not None
    table = Table(title=question, title_justify="left", title_style="bold")
    for name in ("", "all visual tokens", pruned.report.method, "ratio"):
        table.add_column(name, justify="left" if not name else "right")
    table.add_row("answer", full.text, pruned.text, "")
    total, kept = pruned.report.total, pruned.report.kept
    table.add_row("visual tokens", str(total), str(kept), f"{total / kept:.1f}x fewer")
    table.add_row(
        "seconds", f"{full.seconds:.3f}", f"{pruned.seconds:.3f}", f"{pruned.seconds / full.seconds:.2f} of the time"
    )
    megabytes = [f"{answer.kv_bytes / 1e6:.2f} MB" for answer in (full, pruned)]
    table.add_row("KV memory", *megabytes, pruned.smaller_cache(full))
    Console().print(table)


@app.command()
@_reported
def explain(
    image: Image,
    question: Question,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the figure.")] = Path("kept.png"),
    model: Model = "embedded",
    method: MethodName = "gridprune",
    keep: Keep = "11.1%",
    frames: Frames = 8,
    clip: Clip = None,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Draw which visual tokens are kept and why: zones, budgets, relevance and saliency maps."""
    chosen = _method(method, keep)
    picture, loaded = _opened(image, frames, model, clip, device, dtype)
    from ..runtime.ask import answer

    with stderr.status("looking"):
        report = answer(loaded, picture, question, chosen, max_new_tokens=1).report
        assert report is not None
        report.figure(output)
    stderr.print(f"written to {output}", highlight=False)
    if as_json:
        _print_json(report.to_dict())


@app.command()
@_reported
def methods(as_json: Json = False) -> None:
    """List the methods: what they need, where they act, what they cost."""
    from ..methods.registry import describe

    rows = describe()
    if as_json:
        _print_json(rows)
        return
    table = Table()
    for name in ("method", "stage", "fixed count", "uses text", "needs", "cost", "paper"):
        table.add_column(name, overflow="fold")
    for row in rows:
        needs = ", ".join(row["needs"]) or "-"
        flags = ["yes" if row[key] else "no" for key in ("fixed_count", "uses_text")]
        table.add_row(row["name"], row["stage"], *flags, needs, row["cost"], row["paper"] or "-")
    Console().print(table)


@app.command("export-clip")
@_reported
def export_clip(
    source: Annotated[str, typer.Argument(help="A CLIP checkpoint: folder or hub id.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The side folder to write.")] = Path("clip"),
) -> None:
    """Write the text half of a CLIP, once, as a small side folder; put it as `clip` in the checkpoint it belongs to."""
    from ..cues.clip_text import ClipText

    _quiet()
    with stderr.status(f"reading {source}"):
        side = ClipText.load(source)
        target = side.export(output)
    size = sum(file.stat().st_size for file in target.iterdir() if file.is_file())
    stderr.print(f"{target}: {size / 1e6:.1f} MB, relevance sign {side.relevance_sign:+d}", highlight=False)


def _print_json(value: Any) -> None:
    json.dump(value, sys.stdout)
    sys.stdout.write("\n")


@app.command()
@_reported
def families(as_json: Json = False) -> None:
    """List the model families: classes, where their cues come from, clips, tested versions of transformers."""
    from ..families.registry import describe

    rows = describe()
    if as_json:
        _print_json(rows)
        return
    table = Table()
    for name in ("family", "classes", "saliency", "relevance", "video", "refused"):
        table.add_column(name, overflow="fold")
    for row in rows:
        video, limits = "yes" if row["video"] else "no", "\n".join(f"{k}: {v}" for k, v in row["limits"].items())
        table.add_row(row["name"], "\n".join(row["classes"]), row["saliency"], row["relevance"], video, limits or "-")
    Console().print(table)


app.command("batch")(_reported(batch_command))
app.command("bench")(_reported(bench_command))
app.command("eval")(_reported(eval_command))
app.command("results")(_reported(results_command))
app.command("report")(_reported(report_command))
app.command("sign")(_reported(sign_command))
app.command("demo")(_reported(demo_command))
app.command("serve", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
    _reported(serve_command)
)
app.command("plan")(_reported(plan_command))
app.add_typer(tiny_app, name="tiny")
