"""Runs as Markdown tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gridprune.eval.metrics import SUBJECT

Run = Mapping[str, Any]  # metrics.json with "config" and "timing"


def retention(run: Run) -> str:
    """Mean retention by method and budget, in per cent with 95 % intervals; best mean over the budgets first."""
    keeps = _keeps(run)
    by = _by_cell(run)
    head = ["method", *(f"{keep}" for keep in keeps), "mean"]
    lines = []
    for method in _order(run):
        cells = [by.get((method, str(keep))) for keep in keeps]
        known = [cell["retention"] for cell in cells if cell is not None and cell["retention"] is not None]
        mean = f"{100 * sum(known) / len(known):.1f}" if len(known) == len(keeps) else ""
        lines.append([f"`{method}`", *(_with_interval(cell) for cell in cells), mean])
    full = run["full"]
    lines.append([f"all {full['tokens']:g} tokens", *["100"] * len(keeps), "100.0"])
    return _table(head, lines) + "\n\n" + _foot(run)


def accuracy(run: Run) -> str:
    """Accuracy over all questions by method and budget, in per cent, with the text-only prior."""
    keeps, by = _keeps(run), _by_cell(run)
    lines = [
        [f"`{method}`", *(_percent(_get(by, method, keep, "mean_accuracy")) for keep in keeps)]
        for method in _order(run)
    ]
    lines.append([f"all {run['full']['tokens']:g} tokens", *[_percent(run["full"]["mean_accuracy"])] * len(keeps)])
    prior = run["text_prior"]
    if prior:
        mean = sum(prior[kind] for kind in run["averaged_kinds"]) / max(len(run["averaged_kinds"]), 1)
        lines.append(["text alone", *[_percent(mean)] * len(keeps)])
    return _table(["method", *map(str, keeps)], lines)


def evidence(run: Run) -> str:
    """Evidence recall by method and budget, in per cent."""
    keeps, by = _keeps(run), _by_cell(run)
    lines = [
        [f"`{method}`", *(_percent(_get(by, method, keep, "evidence_recall")) for keep in keeps)]
        for method in _order(run)
    ]
    return _table(["method", *map(str, keeps)], lines)


def kinds(run: Run) -> str:
    """Accuracy by kind at the budget nearest to 11 % of the tokens, in per cent."""
    keeps, by = _keeps(run), _by_cell(run)
    total = run["full"]["tokens"]
    keep = min(keeps, key=lambda k: abs(float(_get(by, _order(run)[0], k, "tokens") or 0) / total - 1 / 9))
    names = list(run["full"]["kinds"])
    lines = [
        [f"`{method}`", *(_percent((_get(by, method, keep, "kinds") or {}).get(name)) for name in names)]
        for method in _order(run)
        if (method, str(keep)) in by
    ]
    lines.append([f"all {total:g} tokens", *(_percent(run["full"]["kinds"][name]) for name in names)])
    if run["text_prior"]:
        lines.append(["text alone", *(_percent(run["text_prior"].get(name)) for name in names)])
    return f"With {keep} visual tokens:\n\n" + _table(["method", *names], lines)


def cost(run: Run) -> str:
    """Decision time and FLOPs of the language model over visual tokens, by method and budget."""
    keeps, by = _keeps(run), _by_cell(run)
    decide = run["timing"].get("decide", {})
    lines = [
        [f"`{method}`", *(_milliseconds(decide.get(f"{method}|{keep}")) for keep in keeps)] for method in _order(run)
    ]
    tokens = [
        next((row["flops"] for (_, k), row in by.items() if k == str(keep) and row["tokens"] == keep), None)
        for keep in keeps
    ]
    full = run["full"]["flops"]
    lines.append(["language model, of all tokens", *("" if f is None else f"{100 * f / full:.1f} %" for f in tokens)])
    return _table(["decision in ms", *map(str, keeps)], lines)


def peers(run: Run) -> str:
    """`gridprune` against the best other method at every budget, with the paired 95 % interval."""
    lines = [
        [str(keep), f"`{peer['method']}`", f"{100 * peer['difference']:+.1f}", _interval(peer["ci"], "+")]
        for keep, peer in run["best_peer"].items()
    ]
    return _table(["tokens", "best peer", "difference in points", "95 % interval"], lines)


def ablations(run: Run) -> str:
    """Variants of `gridprune` less `gridprune` itself: points of retention, with the paired 95 % interval."""
    keeps, by = _keeps(run), _by_cell(run)
    lines = []
    for method in dict.fromkeys(row["method"] for row in run["rows"] if is_variant(row["method"], run)):
        found = [_get(by, method, keep, "against_subject") for keep in keeps]
        lines.append([f"`{method}`", *("" if part is None else _difference(part) for part in found)])
    return _table(["variant", *map(str, keeps)], lines)


def provenance(run: Run) -> str:
    """Where the numbers come from."""
    config = run["config"]
    versions = ", ".join(f"{name} {value}" for name, value in config["versions"].items())
    return (
        f"`{config['command']}`, commit {config['commit']}, {versions}; {run['n']} questions about {run['scenes']} "
        f"images; timed on {config['machine']['processor']}, {config['machine']['threads']} threads."
    )


TABLES: Mapping[str, Callable[[Run], str]] = {
    "retention": retention,
    "accuracy": accuracy,
    "evidence": evidence,
    "kinds": kinds,
    "cost": cost,
    "peers": peers,
    "ablations": ablations,
    "provenance": provenance,
}


def _keeps(run: Run) -> Sequence[Any]:
    keeps: Sequence[Any] = run["config"]["identity"]["keeps"]
    return keeps


def _by_cell(run: Run) -> dict[tuple[str, str], Mapping[str, Any]]:
    return {(row["method"], str(row["keep"])): row for row in run["rows"]}


def _get(by: Mapping[tuple[str, str], Mapping[str, Any]], method: str, keep: Any, name: str) -> Any:
    row = by.get((method, str(keep)))
    return None if row is None else row[name]


def is_variant(label: str, run: Run) -> bool:
    """Whether an entry is `gridprune` with other settings or with a part taken away, in a run that has it plain too."""
    plain = any(row["method"] == SUBJECT for row in run["rows"])
    return plain and "(" in label and re.search(rf"(^|\(){SUBJECT}[()]", label) is not None


def _order(run: Run) -> list[str]:
    """Methods by mean retention over the budgets, best first; variants of `gridprune` have a table of their own."""
    scores: dict[str, list[float]] = {}
    for row in run["rows"]:
        if not is_variant(row["method"], run):
            scores.setdefault(row["method"], []).append(row["retention"] or 0.0)
    return sorted(scores, key=lambda method: -sum(scores[method]) / len(scores[method]))


def _foot(run: Run) -> str:
    kinds = ", ".join(run["averaged_kinds"])
    return (
        f"Retention in % of the unpruned model's accuracy, mean over {kinds}; in brackets the 95 % interval "
        f"(bootstrap over images). {run['n']} questions about {run['scenes']} images of the {run['split']} split."
    )


def _with_interval(cell: Mapping[str, Any] | None) -> str:
    if cell is None or cell["retention"] is None:
        return ""
    return f"{100 * cell['retention']:.1f}" + (f" ({_interval(cell['ci'], '')})" if cell["ci"] else "")


def _difference(part: Mapping[str, Any]) -> str:
    interval = f" ({_interval(part['ci'], '+')})" if part["ci"] else ""
    return f"{100 * part['difference']:+.1f}{interval}"


def _interval(ci: Sequence[float] | None, sign: str) -> str:
    return "" if ci is None else f"{100 * ci[0]:{sign}.1f} to {100 * ci[1]:{sign}.1f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.1f}"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *lines))
