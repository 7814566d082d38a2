"""`gridprune ask` and `gridprune explain`: one question about one image or video."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ..errors import SettingError
from ..files import FIGURES, IMAGES, check_output
from . import options
from .options import load_model, print_json, stderr, stdout

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from ..methods.base import Method
    from ..runtime.ask import Answer, Loaded
    from ..runtime.video import Video

Image = Annotated[
    Path | None,
    typer.Argument(
        help="An image (PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF, HEIC), or a video (MP4, MOV, WebM).", show_default=False
    ),
]
Question = Annotated[str | None, typer.Argument(help="What to ask about it.", show_default=False)]
Sample = Annotated[
    bool, typer.Option("--sample", help="Take the image inside the package, and its question if you give none.")
]


def _asked(image: Path | None, question: str | None, sample: bool) -> tuple[Path, str]:
    """What is looked at and what is asked. Of the sample image, a question comes in the image's place."""
    from ..runtime.images import SAMPLE, SAMPLE_QUESTION

    if sample and question is None:
        return SAMPLE, str(image or SAMPLE_QUESTION)
    if sample or image is None or question is None:
        raise SettingError("Give an image and a question; with --sample, a question or nothing.")
    return image, question


def _ready(method: str, keep: str, image: Path, frames: int, *where: Any) -> tuple[Method, PILImage | Video, Loaded]:
    """The method, what is looked at, and the model that is asked. The file is read first: that is where people err.

    Args:
        where: see :func:`~gridprune.cli.options.load_model`.
    """
    from ..methods.spec import parse
    from ..runtime.images import read_image
    from ..runtime.video import is_video, read_video

    chosen = parse(method).method(keep)
    seen = read_video(image, frames) if is_video(image) else read_image(image)
    loaded = load_model(*where)
    loaded.pruning(chosen)  # its text half may have to be downloaded
    return chosen, seen, loaded


def ask_command(
    image: Image = None,
    question: Question = None,
    sample: Sample = False,
    model: options.Model = "embedded",
    method: options.MethodSpec = "gridprune",
    keep: options.Keep = "11.1%",
    frames: options.Frames = 8,
    compare: options.Compare = False,
    find_keep: Annotated[
        bool, typer.Option("--find-keep", help="Instead, try budgets for the smallest with the answer of all tokens.")
    ] = False,
    overlay: Annotated[
        Path | None, typer.Option("--overlay", "--output", "-o", help="Write an image of the kept tokens.")
    ] = None,
    clip: options.Clip = None,
    max_new_tokens: options.MaxNewTokens = 64,
    device: options.Device = "auto",
    device_map: options.DeviceMap = None,
    dtype: options.Dtype = "auto",
    as_json: options.Json = False,
) -> None:
    """Answer a question about an image or a video with a part of its visual tokens."""
    image, question = _asked(image, question, sample)
    check_output(overlay, IMAGES)
    if find_keep and (compare or overlay):
        raise SettingError("--find-keep compares budgets and draws nothing: leave --compare and --overlay out.")
    chosen, seen, loaded = _ready(method, keep, image, frames, model, clip, device, dtype, device_map)
    if find_keep:
        _find_keep(loaded, seen, question, method, max_new_tokens, as_json)
        return
    pruned, full = _answered(loaded, seen, question, chosen, compare, max_new_tokens)
    if as_json:
        print_json(_ask_result(question, model, pruned, full))
    elif full is None:
        print(pruned.text)
    else:
        _print_comparison(question, full, pruned)
    if overlay is not None:
        assert pruned.report is not None
        pruned.report.save(overlay)
        stderr.print(f"kept tokens drawn in {overlay}", soft_wrap=True)


def _answered(
    loaded: Loaded, seen: PILImage | Video, question: str, chosen: Method, compare: bool, limit: int
) -> tuple[Answer, Answer | None]:
    """The answer with kept tokens, and the one with all if they are compared."""
    from ..runtime.ask import answer

    with stderr.status("answering"):
        if compare:  # first calls pay for allocations and the question's embedding: timed is what a second one costs
            answer(loaded, seen, question, max_new_tokens=1)
            answer(loaded, seen, question, chosen, max_new_tokens=1)
        full = answer(loaded, seen, question, max_new_tokens=limit) if compare else None
        return answer(loaded, seen, question, chosen, max_new_tokens=limit), full


def _find_keep(loaded: Loaded, seen: PILImage | Video, question: str, method: str, limit: int, as_json: bool) -> None:
    from ..runtime.ladder import find_keep

    with stderr.status("trying budgets") as status:

        def tell(done: int, of: int) -> None:
            status.update(f"trying budgets: {done} of {of}")

        found = find_keep(loaded, seen, question, method, max_new_tokens=limit, progress=tell)
    if as_json:
        print_json({**found.to_dict(), "question": question, "model": loaded.name})
        return
    table = Table(title=question, title_justify="left", title_style="bold")
    for name in ("visual tokens", "answer", "as with all"):
        table.add_column(name, justify="left" if name == "answer" else "right")
    for one in found.tried:
        table.add_row(str(one.keep), one.answer, "yes" if one.same else "no")
    table.add_row(f"all {found.total}", found.answer, "", style="bold")
    stdout.print(table)
    stdout.print(
        f"The same answer with {found.smallest} of {found.total} visual tokens at the least, and with all budgets "
        f"tried from {found.steady} on. Budgets between these were not tried."
    )


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
    stdout.print(table)


def explain_command(
    image: Image = None,
    question: Question = None,
    sample: Sample = False,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the figure.")] = Path("kept.png"),
    model: options.Model = "embedded",
    method: options.MethodSpec = "gridprune",
    keep: options.Keep = "11.1%",
    frames: options.Frames = 8,
    clip: options.Clip = None,
    device: options.Device = "auto",
    device_map: options.DeviceMap = None,
    dtype: options.Dtype = "auto",
    as_json: options.Json = False,
) -> None:
    """Draw which visual tokens are kept and why: zones, budgets, relevance and saliency maps."""
    image, question = _asked(image, question, sample)
    check_output(output, FIGURES)
    chosen, seen, loaded = _ready(method, keep, image, frames, model, clip, device, dtype, device_map)
    from ..runtime.ask import answer

    with stderr.status("looking"):
        report = answer(loaded, seen, question, chosen, max_new_tokens=1).report
        assert report is not None
        report.figure(output)
    stderr.print(f"written to {output}", soft_wrap=True)
    if as_json:
        print_json(report.to_dict())
