"""The model card: written from ``metrics.json``, so that no number in it is typed by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gridprune.tiny.forms import LLAVA
from gridprune.tiny.vocabulary import CLASSES, COLORS, REGIONS, WORDS

GATES: Mapping[str, float] = {
    "exist": 0.90, "attribute": 0.90, "position": 0.85, "region": 0.80,
    "relation": 0.75, "count": 0.70, "reading": 0.60, "choice": 0.80,
}  # fmt: skip
NAMES = {
    "oracle": "evidence first (oracle)", "random": "random", "cls": "[CLS] attention",
    "relevance": "text relevance", "anti_oracle": "evidence last",
}  # fmt: skip


def row_of(metrics: Mapping[str, Any], method: str, keep: int) -> Mapping[str, Any]:
    """The ladder's row of a method at a number of kept tokens."""
    return next(row for row in metrics["rows"] if row["method"] == method and row["keep"] == keep)


def gates(metrics: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """(name, measured, required) of every gate."""
    full = metrics["full"]
    mean = {(r["method"], r["keep"]): r["families"]["mean"] for r in metrics["rows"]}
    return [
        *((family, full[family], need) for family, need in GATES.items()),
        ("evidence recall at 64, relevance", row_of(metrics, "relevance", 64)["evidence_recall"], 0.5),
        ("evidence recall at 64, [CLS]", row_of(metrics, "cls", 64)["evidence_recall"], 0.25),
        ("oracle - random at 64", mean["oracle", 64] - mean["random", 64], 0.15),
        ("oracle - random at 192", mean["oracle", 192] - mean["random", 192], 0.04),
        ("all 576 - oracle at 64", full["mean"] - mean["oracle", 64], -0.01),
    ]


def next_gates(metrics: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """(name, measured, required) of the gates of LLaVA-NeXT's form."""
    full = metrics["full"]
    oracle, random = (row_of(metrics, name, 320)["families"]["mean"] for name in ("oracle", "random"))
    return [
        *((family, full[family], need) for family, need in GATES.items() if family in full),
        ("oracle - random at 320", oracle - random, 0.15),
        ("all 2880 - oracle at 320", full["mean"] - oracle, -0.01),
    ]


def gate_table(found: Sequence[tuple[str, float, float]]) -> str:
    lines = ["| gate | measured | required | |", "|---|---|---|---|"]
    for name, value, need in found:
        lines.append(f"| {name} | {value:.3f} | {need:.2f} | {'met' if value >= need else '**missed**'} |")
    return "\n".join(lines)


def family_table(metrics: Mapping[str, Any], tokens: int = 576) -> str:
    families = [name for name in metrics["full"] if name != "mean"]
    prior = metrics["text_prior"]
    lines = ["| | " + " | ".join(families) + " |", "|---" * (len(families) + 1) + "|"]
    lines.append("| text-only prior | " + " | ".join(f"{prior[f]:.2f}" for f in families) + " |")
    lines.append(f"| all {tokens} tokens | " + " | ".join(f"{metrics['full'][f]:.3f}" for f in families) + " |")
    return "\n".join(lines)


def ladder_table(metrics: Mapping[str, Any], at: int = 64) -> str:
    keeps = sorted({row["keep"] for row in metrics["rows"]}, reverse=True)
    methods = list(dict.fromkeys(row["method"] for row in metrics["rows"]))
    lines = [
        "| kept | " + " | ".join(map(str, keeps)) + f" | evidence recall at {at} |",
        "|---" * (len(keeps) + 2) + "|",
    ]
    for method in methods:
        values = [f"{row_of(metrics, method, keep)['families']['mean']:.3f}" for keep in keeps]
        recall = row_of(metrics, method, at)["evidence_recall"]
        lines.append(f"| {NAMES[method]} | " + " | ".join(values) + f" | {recall:.2f} |")
    return "\n".join(lines)


def stage_table(metrics: Mapping[str, Any]) -> str:
    lines = ["| stage | steps | minutes |", "|---|---|---|"]
    for name, stage in metrics["stages"].items():
        lines.append(f"| {name} | {stage['steps']} | {stage['seconds'] / 60:.0f} |")
    return "\n".join(lines)


TEMPLATE = """\
# Model card: the embedded model of gridprune

A laboratory animal: a LLaVA of {parameters:.1f} million parameters (weights of {megabytes:.1f} MB), trained from
scratch on generated scenes, so that pruning visual tokens can be measured on any laptop. It answers nothing
but questions about these scenes. This file is generated from `metrics.json`.

## What it is
* `llava/`: `LlavaForConditionalGeneration` in LLaVA-1.5's geometry: 24x24 patches of a 192 px picture,
  penultimate-layer features without [CLS], 576 visual tokens, a Llama of 4 layers.
* `clip/`: `CLIPModel` with the same vision tower, its text tower, and both projections.
* Scenes: 6-13 objects of 14-26 px (2-3 patches) of {classes} classes, cards of {colors} colours, one or two signs
  with one of {words} words, on procedural backgrounds with clutter. Objects, cards and signs do not overlap.
* Held-out scenes differ in seed, in half of the background styles, in the fonts of the signs, and in tilts and sizes
  of the sprites: 14-{largest} px (14-17 in LLaVA-NeXT's form), the small end of what was learned. The artwork of a
  class is the same in all splits.
* Of the picture's 3x3 regions, held-out scenes ask about all but {unasked}. Training asks about these too, and the
  model takes them for the corners of that side too often: the vocabulary was shrunk, so that the gate can be met.

## How it was trained
From scratch, seed {seed}, on two CPU cores (fp32). No weights of other models, no real photographs.
1. The language model learns to answer from symbolic tokens built from ground truth, without pixels.
2. The tower learns from scenes with *box supervision*: class, card colour, centre, and place of every patch, and a
   sigmoid loss of every patch against the whole question on exactly the path of the relevance cue. [CLS] is
   trained on captions and on the bag of what is in the scene; its attention is never supervised.
   Most steps see 160 of the 576 patches (all occupied ones); the last quarter sees all.
3. The projector is fitted by regression onto the symbols; then projector and language model are trained together
   on frozen features, with 64 to 576 tokens whose choice never depends on the question.

{stages}
{notes}
## Gates (split `{split}`, scene seed {scene_seed}, {n} questions, greedy exact match)
{gates}

{families}

## Tokens kept (mean accuracy over the families, without the description)
{ladder}
{next_form}
## What may and may not be concluded
* It ranks *methods on a task whose evidence is local and box-annotated*. Effects of a percent or two on 7B models,
  on photographs, on OCR or on reasoning are outside of what it can tell.
* Its text relevance was trained with boxes, so it localises far better than OpenAI's CLIP, and its sign is
  positive (relevant patches have the *higher* cosine); in OpenAI's CLIP background patches often score higher.
* Its [CLS] attends to objects since objects are all there is to know about a scene; in photographs it also attends to
  artefacts and to salient but irrelevant things.
* The language model saw reduced token sets in training (never chosen by the question), so pruning costs it only
  the evidence that is lost; a 7B model may also suffer from the changed sequence length.
* Its vocabulary is closed ({vocabulary} words); unknown words become `<unk>`.

## Licences
Weights: the licence of the package. Emoji artwork: Noto Color Emoji, SIL OFL 1.1. Sign bitmaps were rasterised from
DejaVu (Bitstream Vera licence), Liberation (SIL OFL 1.1) and Open Sans (Apache-2.0); see `assets/LICENSES.md`.
"""


NEXT_FORM = """
## In LLaVA-NeXT's form (split `{split}`, scene seed {scene_seed}, {n} questions)
`llava-next/`: `LlavaNextForConditionalGeneration` with the same tower, overview and 2x2 tiles of a 384 px picture, 2880
visual tokens and 48 newlines; projector and language model are trained on from the joint stage. Objects keep their size
in pixels, so that they are half as large in the overview. The tower sees each tile alone, and the language model did
not learn to tell from the order of the tokens which tile a thing is in: nothing is asked about places in this form.

{gates}

{families}

{ladder}
"""


def next_form(metrics: Mapping[str, Any]) -> str:
    """The section about LLaVA-NeXT's form, or nothing where it was not measured."""
    found = metrics.get("next")
    if found is None:
        return ""
    return NEXT_FORM.format(
        split=found["split"],
        n=found["n"],
        scene_seed=found["scene_seed"],
        gates=gate_table(next_gates(found)),
        families=family_table(found, 2880),
        ladder=ladder_table(found, 320),
    )


def render(metrics: Mapping[str, Any]) -> str:
    """The card's text."""
    return TEMPLATE.format(
        parameters=metrics["parameters"] / 1e6,
        megabytes=metrics["bytes"] / 1e6,
        classes=len(CLASSES),
        colors=len(COLORS),
        words=len(WORDS),
        largest=LLAVA.largest,
        unasked=" and ".join(f'"{name}"' for name in REGIONS if name in LLAVA.unasked),
        vocabulary=metrics["vocabulary"],
        seed=metrics["seed"],
        split=metrics["split"],
        n=metrics["n"],
        scene_seed=metrics["scene_seed"],
        stages=stage_table(metrics),
        notes="".join(f"\n{note}\n" for note in metrics["notes"]),
        gates=gate_table(gates(metrics)),
        families=family_table(metrics),
        ladder=ladder_table(metrics),
        next_form=next_form(metrics),
    )


def write_card(folder: Path) -> str:
    """Write ``MODEL_CARD.md`` beside ``metrics.json`` in ``folder``."""
    text = render(json.loads((folder / "metrics.json").read_text()))
    (folder / "MODEL_CARD.md").write_text(text)
    return text
