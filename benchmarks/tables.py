"""The bench as Markdown tables, for README and docs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]  # results/bench.json


def summary(result: Result) -> str:
    """End to end against the limit, the unpruned model and research code; the decision's share of the prefill."""
    lines = [
        [
            part["shape"]["name"],
            pair,
            _interval(ratio),
            _interval(part["ratio_to_native_built"][pair]),
            _percent(part["extra_outside_modules"][pair], 2),
            f"{part['speedup'][pair]:.2f}",
            f"{gain:.2f}" if (gain := part.get("speedup_research", {}).get(pair)) else "-",
            _share(part),
        ]
        for part in _real(result)
        for pair, ratio in part["ratio_to_native"].items()
    ]
    head = [
        "shape",
        "N/k",
        "pruned / k native tokens",
        "built blocks alone",
        "looking and choosing",
        "faster to first token",
        "research code",
        "deciding / unpruned",
    ]
    return "\n\n".join(filter(None, [markdown(head, lines), _foot(result), _long(result)]))


def short(result: Result) -> str:
    """The fewest columns: what pruning gains, how near the limit it is, what deciding costs."""
    lines = [
        [
            part["shape"]["name"],
            *pair.split("/"),
            f"{gain:.2f} x",
            f"{part['ratio_to_native'][pair][0]:.3f}",
            _share(part),
        ]
        for part in _real(result)
        for pair, gain in part["speedup"].items()
    ]
    head = ["shape", "visual tokens", "kept", "faster to first token", "time / k native tokens", "deciding / unpruned"]
    return markdown(head, lines)


def gap(result: Result) -> str:
    """From the ratio of tokens to that of times, one cost after the other."""
    lines = []
    for part in _real(result):
        whole, rows = part["extrapolated"], part["shape"]["rows"]
        n = next(iter(whole["prefill"]))
        for pair, gain in part["speedup"].items():
            k = pair.split("/")[1]
            rates = [part["flops"][length] / whole["prefill"][length] / 1e9 for length in (n, k)]
            lines.append(
                [
                    part["shape"]["name"],
                    pair,
                    f"{int(n) / rows[k]:.2f}",
                    f"{part['speedup_flops'][pair]:.2f}",
                    f"{part['speedup_prefill'][pair]:.2f}",
                    f"{part['speedup_tower'][pair]:.2f}",
                    f"{gain:.2f}",
                    f"{rates[0]:.0f} / {rates[1]:.0f}",
                ]
            )
    head = [
        "shape",
        "N/k",
        "visual tokens",
        "FLOPs, text included",
        "prefill, measured",
        "with the tower",
        "with looking and choosing",
        "GFLOP/s, all / k",
    ]
    return markdown(head, lines)


def decisions(result: Result) -> str:
    """Milliseconds of every method's decision over N, and how time and memory grow."""
    rows = result["parts"]["decisions"]
    sizes = sorted({int(n) for row in rows.values() for n in row.get("ms", {})})
    lines, skipped = [], []
    for name, row in sorted(rows.items(), key=lambda item: _first(item[1])):
        if "skipped" in row:
            skipped.append(f"`{name}` ({row['skipped']})")
            continue
        cells = [f"{row['ms'][str(n)][0]:.2f}" if str(n) in row["ms"] else "-" for n in sizes]
        lines.append([f"`{name}`", *cells, _number(row["time_exponent"]), _number(row["memory_exponent"])])
    head = ["decision in ms", *(f"N = {n:,}" for n in sizes), "time ~ N^", "memory ~ N^"]
    stopped = [f"`{name}` {row['stopped']}" for name, row in rows.items() if "stopped" in row]
    notes = [
        f"Left out: {'; '.join(skipped)}." if skipped else "",
        f"Cut off: {'; '.join(stopped)}." if stopped else "",
    ]
    return "\n\n".join([markdown(head, lines), *filter(None, notes)])


def published(result: Result) -> str:
    """DivPrune's and CDPruner's published procedures over our versions, and over GridPrune."""
    lines = [
        [pair, f"{row['published_ms']:.1f}", _interval(row["ours"]), _interval(row["gridprune"]), _yes(row["equal"])]
        for pair, row in result["parts"]["published"].items()
    ]
    return markdown(["method/N", "published, ms", "published / ours", "published / gridprune", "equal choice"], lines)


def profile(result: Result) -> str:
    """Where the milliseconds of decisions go, and what they would be if each kernel were the cheapest there is."""
    part = result["parts"]["profile"]
    lines = []
    for name, row in part["rows"].items():
        kinds = row["kinds"]
        inside = [f"{kinds[kind]:.2f}" for kind in kinds]
        floor = row["kernels"] * part["cheapest_us"] / 1e3
        lines.append([name, f"{row['ms']:.2f}", *inside, f"{between(row):.2f}", str(row["kernels"]), f"{floor:.2f}"])
    head = [
        "procedure/N",
        "ms",
        "matrix products",
        "sorts",
        "other kernels",
        "between kernels",
        "kernels",
        "their floor",
    ]
    note = (
        f"Milliseconds of CPU time. The floor is the number of kernels times {part['cheapest_us']:.1f} us, what adding "
        "to a single number takes here. Kinds are timed in calls of their own, with the timer's cost in them."
    )
    return f"{markdown(head, lines)}\n\n{note}"


def between(row: Mapping[str, Any]) -> float:
    """Milliseconds of a profiled decision that no kernel takes."""
    return max(0.0, row["ms"] - sum(row["kinds"].values()))


def capture(result: Result) -> str:
    """Extra cost of reading one block's attention, and of eager attention, over sdpa."""
    lines = [
        [tower, f"{row['blocks_built']} of {row['blocks']}", _percent(row["capture"]), _percent(row["eager"])]
        for tower, row in result["parts"]["capture"].items()
    ]
    return markdown(["tower", "blocks built", "capture over sdpa", "eager over sdpa"], lines)


def parts(result: Result) -> str:
    """Seconds of the stages between an image and the first token."""
    lines = []
    for name, part in _shapes(result).items():
        stages, shape, whole = part["stages"], part["shape"], part["extrapolated"]
        n, k = (list(whole["prefill"])[i] for i in (0, -1))
        once = [stages[key][0] if key in stages else None for key in ("image processing", "text", "cues", "decision")]
        lines.append(
            [
                name,
                *(_seconds(value) for value in (once[0], whole["tower"], *once[1:])),
                f"{_seconds(whole['prefill'][n])} / {_seconds(whole['prefill'][k])}",
                f"{_seconds(whole['decode_per_token'][n])} / {_seconds(whole['decode_per_token'][k])}",
                f"{part['kv_bytes'][n]['all_layers'] / 1e6:.0f} / {part['kv_bytes'][k]['all_layers'] / 1e6:.0f}",
                *(f"{shape[f'{kind}_built']} of {shape[kind]}" for kind in ("layers", "tower_blocks")),
            ]
        )
    head = [
        "seconds",
        "image processing",
        "tower",
        "text tower",
        "cues",
        "decision",
        "prefill, all / fewest",
        "a token",
    ]
    return markdown([*head, "KV in MB", "layers built", "tower blocks"], lines)


TABLES: Mapping[str, Callable[[Result], str]] = {
    "speed": summary,
    "speed-short": short,
    "speed-gap": gap,
    "speed-decisions": decisions,
    "speed-published": published,
    "speed-profile": profile,
    "speed-capture": capture,
    "speed-parts": parts,
}


def _shapes(result: Result) -> dict[str, Any]:
    return {name: part for name, part in result["parts"].items() if "stages" in part}


def _real(result: Result) -> list[dict[str, Any]]:
    """The shapes of real models; the embedded one's if there is no other."""
    shapes = _shapes(result)
    return [part for name, part in shapes.items() if name != "tiny"] or list(shapes.values())


def _share(part: Mapping[str, Any]) -> str:
    return f"{100 * part['decision_share_of_prefill']:.2f} %"


def _foot(result: Result) -> str:
    machine = result["machine"]
    built = "; ".join(
        f"{s['name']} {s['layers_built']} of {s['layers']} layers and {s['tower_blocks_built']} of {s['tower_blocks']} "
        f"tower blocks, {part['rounds']} rounds and {part['pairs']} pairs pruned and native"
        for part in _real(result)
        for s in [part["shape"]]
    )
    return (
        f"Random weights, {machine['dtype']}, {machine['attention']}, {machine['clock']}, {machine['processor']}, "
        f"torch {machine['torch']}, all interleaved. Built: {built}. Every call times its blocks; times of the whole "
        "model add the missing ones at what one of their kind took in the same call, so that what happens once an "
        "image (text tower, cues, decision) weighs what it weighs in the whole model. Built blocks alone are what "
        "was timed, without the text tower: there the decision weighs more. Both ratios carry the clock's noise on "
        "matrix products that are the same in either call; looking and choosing is what pruning spends more than the "
        "limit outside tower, projector and language model, text tower included, over the limit's time. In brackets "
        "the middle half of the rounds."
    )


def _long(result: Result) -> str:
    part = result["parts"].get("long")
    if part is None:
        return ""
    shape = part["shape"]
    return (
        f"At {shape['visual_tokens']:,} tokens the decision with its cues and the text tower is {_share(part)} of the "
        f"language model's prefill ({part['prefill']:.0f} s, from one pass through {shape['layers_built']} of "
        f"{shape['layers']} layers; the tower's work is left out of it)."
    )


def _first(row: Mapping[str, Any]) -> float:
    return next((values[0] for values in row.get("ms", {}).values()), float("inf"))


def _interval(values: Sequence[float]) -> str:
    middle, low, high = (f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" for value in values)
    return f"{middle} ({low} to {high})"


def _percent(values: Sequence[float], digits: int = 1) -> str:
    middle, low, high = (f"{100 * value:+.{digits}f}" for value in values)
    return f"{middle} % ({low} to {high})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Cells as a Markdown table; the first column is text, the others are numbers."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *lines))
