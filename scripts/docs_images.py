"""Draw the images of docs/index.md and docs/concepts.md with the library and the embedded model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from gridprune import GridPrune
from gridprune.core.reading import read
from gridprune.core.token_map import TokenMap
from gridprune.report import Report
from gridprune.report.figure import as_map
from gridprune.runtime import Answer, Loaded, answer, load
from gridprune.runtime.images import read_image

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "images" / "concepts"
QUESTION = (ROOT / "examples" / "scene.txt").read_text(encoding="utf-8").strip()
INK = "#20242a"
KEEP = 64


def canvas(columns: int, width: float, height: float) -> tuple[Figure, Any]:
    """A figure of one row of panels without axes."""
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, columns, squeeze=False)[0]
    for panel in panels:
        panel.set_axis_off()
    return figure, panels


def ask(loaded: Loaded, image: Image.Image, question: str, method: GridPrune | None = None) -> tuple[Answer, Report]:
    """One pruned answer and its report."""
    found = answer(loaded, image, question, method or GridPrune(keep=KEEP), max_new_tokens=12)
    assert found.report is not None
    return found, found.report


def budgets(report: Report) -> Any:
    """The budget of every token's zone, as a map."""
    assert report.zones is not None
    assert report.zone_budgets is not None
    return as_map(report, report.zone_budgets.float()[report.zones.index])


def over(panel: Any, image: Image.Image, values: Any, title: str, **options: Any) -> Any:
    """A map laid over the grey image."""
    extent = (0, image.width, image.height, 0)
    panel.imshow(image.convert("L"), cmap="gray", extent=extent)
    panel.set_title(title, fontsize=10)
    return panel.imshow(values, alpha=0.75, extent=extent, interpolation="nearest", **options)


def what(loaded: Loaded, image: Image.Image) -> Figure:
    """One question with all and with a ninth of the visual tokens."""
    full = answer(loaded, image, QUESTION, max_new_tokens=12)
    pruned, report = ask(loaded, image, QUESTION)
    figure, (left, middle, right) = canvas(3, 12, 4.7)
    figure.suptitle(f"“{QUESTION}”", fontsize=14)
    left.imshow(image)
    left.set_title(f"all {report.total} visual tokens: “{full.text}”", fontsize=12)
    rows, columns = report.token_map.grid
    for i in range(1, rows):
        left.axhline(i * image.height / rows, color="white", lw=0.3)
    for i in range(1, columns):
        left.axvline(i * image.width / columns, color="white", lw=0.3)
    drawn = over(middle, image, budgets(report), "where to look: tokens for every zone", cmap="viridis")
    figure.colorbar(drawn, ax=middle, fraction=0.046, pad=0.02)
    right.imshow(report.overlay(image))
    saved = 1 - pruned.kv_bytes / full.kv_bytes
    right.set_title(f"{report.kept} tokens: “{pruned.text}”, {saved:.0%} less KV memory", fontsize=12)
    return figure


def zones(loaded: Loaded, image: Image.Image) -> Figure:
    """The same question with the printed guide, the default, and a sharper one."""
    guides = {
        "as printed": GridPrune.literal(keep=KEEP, zone=GridPrune().zone),
        "default": GridPrune(keep=KEEP),
        "temperature 0.5": GridPrune(keep=KEEP, temperature=0.5),
    }
    figure, panels = canvas(3, 12, 4.2)
    for panel, (name, method) in zip(panels, guides.items()):
        report = ask(loaded, image, QUESTION, method)[1]
        title = f"{name}: {int((report.zone_budgets > 0).sum())} of {report.zones.count} zones"
        figure.colorbar(over(panel, image, budgets(report), title, cmap="viridis"), ax=panel, fraction=0.046, pad=0.02)
    return figure


def cues(loaded: Loaded, image: Image.Image) -> Figure:
    """Relevance of two questions, and saliency, which knows none."""
    other = "Where is the clock?"
    first, second = ask(loaded, image, QUESTION)[1], ask(loaded, image, other)[1]
    figure, panels = canvas(3, 12, 4.2)
    maps = [
        (read(first.relevance, first.reading, first.saliency), f"relevance: “{QUESTION}”"),
        (read(second.relevance, second.reading, second.saliency), f"relevance: “{other}”"),
        (first.saliency, "saliency, the same for both"),
    ]
    for panel, (values, title) in zip(panels, maps):
        drawn = over(panel, image, as_map(first, values), title, cmap="magma")
        figure.colorbar(drawn, ax=panel, fraction=0.046, pad=0.02)
    return figure


def signs(loaded: Loaded, image: Image.Image) -> Figure:
    """The same method with both signs."""
    figure, panels = canvas(2, 8.5, 4.6)
    for panel, reading, sign in zip(panels, ("plus", "minus"), (1, -1)):
        found, report = ask(loaded, image, QUESTION, GridPrune(keep=KEEP, reading=reading))
        panel.imshow(report.overlay(image))
        panel.set_title(f"sign {sign:+d}: “{found.text}”", fontsize=12)
    return figure


def positions(loaded: Loaded, image: Image.Image) -> Figure:
    """Positions of the kept tokens of one image row, renumbered and kept."""
    report = ask(loaded, image, QUESTION)[1]
    columns = report.token_map.grid[1]
    by_row = report.kept_mask.view(report.token_map.grid)
    row = int((by_row[:, 1:] != by_row[:, :-1]).sum(1).argmax())  # the one with the most gaps
    kept = by_row[row]
    before = int(report.kept_mask[: row * columns].sum())
    figure, (panel,) = canvas(1, 12, 2.2)
    panel.set(xlim=(-5.5, columns), ylim=(2.6, -0.2))
    number = before
    for column in range(columns):
        stays = bool(kept[column])
        face = "#c02020" if stays else "#e4e7eb"
        panel.add_patch(Rectangle((column, 0), 0.92, 0.7, color=face))
        if stays:
            for height, value in ((1.45, row * columns + column), (2.2, number)):
                panel.text(column + 0.46, height, str(value), ha="center", va="center", fontsize=9, color=INK)
            number += 1
    for height, words in ((0.35, f"row {row} of the image"), (1.45, 'positions="original"'), (2.2, '"contiguous"')):
        panel.text(-0.3, height, words, ha="right", va="center", fontsize=10, color=INK)
    return figure


def planes(draw: Callable[[Any], None]) -> Callable[[Loaded, Image.Image], Figure]:
    """A figure of token maps, which need no image."""

    def figure_of(loaded: Loaded, image: Image.Image) -> Figure:
        figure, panels = canvas(4, 12, 3.4)
        draw(panels)
        return figure

    return figure_of


def tiles(panel: Any, token_map: TokenMap, chosen: torch.Tensor, zone: torch.Tensor, title: str) -> None:
    """Some tokens of a map as squares, coloured by their zone."""
    colours = ["#3b6fb6", "#e0913a", "#4f9d69", "#b65a8f", "#7a6bb0", "#9a8c4a", "#5fb0c4", "#c2645b"]
    panel.set_title(title, fontsize=11)
    for token in chosen.nonzero()[:, 0].tolist():
        x, y, z = int(token_map.column[token]), int(token_map.row[token]), int(zone[token])
        separator = bool(token_map.separator[token])
        panel.add_patch(Rectangle((x, y), 0.9, 0.9, color="#20242a" if separator else colours[z % len(colours)]))
    panel.set(
        xlim=(-0.3, int(token_map.column.max()) + 1.3), ylim=(int(token_map.row.max()) + 1.3, -0.3), aspect="equal"
    )


def anyres(panels: Any) -> None:
    """The overview and the mosaic of a LLaVA-NeXT image of 2 : 1, read from a tiny random model of the class."""
    import transformers as hf

    from gridprune import families

    vision = hf.CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=3, num_attention_heads=1, image_size=24, patch_size=4
    )
    text = hf.LlamaConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        vocab_size=9,
    )
    config = hf.LlavaNextConfig(
        vision_config=vision, text_config=text, image_token_id=3, image_grid_pinpoints=[[24, 48], [48, 24], [48, 48]]
    )
    family = families.find(hf.LlavaNextForConditionalGeneration(config))
    pixels = torch.zeros(1, 3, 3, 24, 24)
    token_map = family.token_maps({"pixel_values": pixels, "image_sizes": torch.tensor([[24, 48]])})[0]
    zone = torch.zeros(len(token_map), dtype=torch.int64)
    zone[token_map.candidate_positions] = token_map.candidates.zones(3).index
    for panel, plane, title in zip(panels, (0, 1), ("overview, zones of 3 x 3", "mosaic of two tiles, with newlines")):
        tiles(panel, token_map, token_map.plane == plane, zone, title)
    view = torch.zeros(len(token_map), dtype=torch.int64)
    view[token_map.candidate_positions] = token_map.candidates.groups("view").index
    tiles(panels[2], token_map, token_map.plane == 1, view, "the same mosaic by view")
    everything = torch.ones(len(token_map.candidates), dtype=torch.bool)
    kept = token_map.keep_mask(everything.nonzero()[::5, 0])
    tiles(panels[3], token_map, kept & (token_map.plane == 1), zone, "a newline stays with its row")


def video(panels: Any) -> None:
    """A video of four frames, in zones of two frames."""
    token_map = TokenMap.from_grid(6, 6, frames=4)
    zone = token_map.zones(3, frames=2).index
    for frame, panel in enumerate(panels):
        tiles(panel, token_map, token_map.frame == frame, zone, f"frame {frame}")


IMAGES: dict[str, Callable[[Loaded, Image.Image], Figure]] = {
    "what": what,
    "zones": zones,
    "cues": cues,
    "signs": signs,
    "positions": positions,
    "anyres": planes(anyres),
    "video": planes(video),
}


def write(figure: Figure, file: Path) -> None:
    """A small PNG: 256 colours are enough for these."""
    figure.canvas.draw()
    pixels = figure.canvas.buffer_rgba()
    Image.fromarray(np.asarray(pixels)[..., :3].copy()).quantize(256).save(file, optimize=True)


def main() -> None:
    torch.set_num_threads(1)
    loaded, image = load(), read_image(ROOT / "examples" / "scene.png")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, draw in IMAGES.items():
        write(draw(loaded, image), FOLDER / f"{name}.png")


if __name__ == "__main__":
    main()
