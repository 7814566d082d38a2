"""Names of methods, resolved lazily. Another package adds its own through the entry-point group `gridprune.methods`:

[project.entry-points."gridprune.methods"]
mymethod = "mypackage.mymethod:MyMethod"
"""

from __future__ import annotations

import difflib
import inspect
import re
from dataclasses import fields
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from ..errors import SettingError, UnknownNameError
from .base import Method

ENTRY_POINT_GROUP = "gridprune.methods"

# name -> "module:Class", relative to this package
BUILT_IN: dict[str, str] = {
    "gridprune": ".gridprune:GridPrune",
    "gridprune-literal": ".gridprune:LiteralGridPrune",
    "gridprune-cover": ".gridprune_cover:GridPruneCover",
    "keep-all": ".keep_all:KeepAll",
    "random": ".random:Random",
    "uniform": ".uniform:Uniform",
    "pooling": ".pooling:Pooling",
    "fastervlm": ".fastervlm:FasterVLM",
    "relevance": ".relevance:Relevance",
    "hawk": ".hawk:Hawk",
    "vispruner": ".vispruner:VisPruner",
    "visionzip": ".visionzip:VisionZip",
    "prumerge": ".prumerge:PruMerge",
    "prumerge-plus": ".prumerge:PruMergePlus",
    "prumerge-fixed": ".prumerge:PruMergeFixed",
    "prumerge-plus-fixed": ".prumerge:PruMergePlusFixed",
    "trim": ".trim:Trim",
    "trim-iqr": ".trim:TrimIQR",
    "divprune": ".divprune:DivPrune",
    "cdpruner": ".cdpruner:CDPruner",
    "cdpruner-split": ".cdpruner:CDPrunerSplit",
    "holov": ".holov:HoloV",
    "holov-printed": ".holov:HoloVPrinted",
    "scope": ".scope:Scope",
    "hiprune": ".hiprune:HiPrune",
    "vscan-tower": ".vscan:VScanTower",
    "eadp": ".eadp:EADP",
    "eadp-released": ".eadp:EADPReleased",
    "tops-stage-one": ".tops:TopsStageOne",
    "s2prune": ".s2prune:S2Prune",
    "mmtok": ".mmtok:MMTok",
    "fsr": ".fsr:FSR",
    "nuwa": ".nuwa:Nuwa",
    "otprune": ".otprune:OTPrune",
    "zoo-prune": ".zoo_prune:ZOOPrune",
    "prunesid": ".prunesid:PruneSID",
    "id-selection": ".id_selection:IDSelection",
    "mmr": ".mmr:MMR",
    "vlm-pruner": ".vlm_pruner:VLMPruner",
    "apet": ".apet:ApET",
    "l2norm": ".l2norm:L2Norm",
    "litelvlm": ".litelvlm:LiteLVLM",
    "vidcom2": ".vidcom2:VidCom2",
    "dart-input": ".dart:DartInput",
    "evs": ".evs:EVS",
    "centered": ".wrappers.centered:Centered",
    "centered-cdpruner": ".wrappers.centered:CenteredCDPruner",
    "merge-rest": ".wrappers.merge_rest:MergeRest",
    "relevance-weighted": ".wrappers.relevance_weighted:RelevanceWeighted",
    "first-layer": ".hawk:FirstLayer",
    "zone-floor": ".wrappers.zone_floor:ZoneFloor",
    "two-stage": ".wrappers.two_stage:TwoStage",
    "per-view": ".wrappers.per_view:PerView",
    "fastv": ".in_llm.fastv:FastV",
    "pyramiddrop": ".in_llm.pyramiddrop:PyramidDrop",
    "sparsevlm": ".in_llm.sparsevlm:SparseVLM",
    "dart-inside": ".in_llm.dart:DartInside",
}


_DIFFERENCE = "Published and this class: "


@lru_cache(maxsize=1)
def _targets() -> dict[str, str]:
    targets = dict(BUILT_IN)
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        name = normal(entry.name)
        if targets.get(name, entry.value) != entry.value:
            raise SettingError(f"Two methods are called {name!r}: {targets[name]} and {entry.value}. Rename one.")
        targets[name] = entry.value
    return targets


def normal(name: str) -> str:
    """How a name is compared: capitals and underscores do not matter."""
    return name.strip().lower().replace("_", "-")


def available() -> list[str]:
    """Names of all methods, built in and registered by other packages, sorted."""
    return sorted(_targets())


def get(name: str) -> type[Method]:
    """The method class called `name`.

    Raises:
        UnknownNameError: no such method; the message lists close matches and all names.
    """
    targets = _targets()
    key = normal(name)
    if key not in targets:
        close = difflib.get_close_matches(key, targets, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UnknownNameError(
            f"There is no method called {name!r}.{hint} Known methods: {', '.join(sorted(targets))}."
        )
    module, _, attribute = targets[key].partition(":")
    return getattr(import_module(module, __package__), attribute)  # type: ignore[no-any-return]


def create(name: str, /, **settings: Any) -> Method:
    """Build the method called `name`; wrong settings raise a :class:`SettingError` that lists the right ones."""
    return build(name, get(name), **settings)


def build(name: str, kind: type[Method], /, **settings: Any) -> Method:
    """Build a method of a class at hand, with the errors of :func:`create`."""
    try:
        return kind(**settings)
    except TypeError as error:
        known = ", ".join(field.name for field in fields(kind))
        raise SettingError(f"{name} does not take these settings ({error}). It has: {known}.") from None


def summary(kind: type) -> str:
    """The first sentence of a class's docstring, as plain text without its full stop."""
    return _plain((inspect.getdoc(kind) or "").split("\n\n")[0]).split(". ")[0].rstrip(".")


def difference(kind: type) -> str:
    """How a method differs from its paper and the released code: that paragraph of its docstring, or of the class it
    varies; empty if it says nothing of the kind."""
    for each in kind.__mro__:
        for paragraph in inspect.cleandoc(each.__doc__ or "").split("\n\n"):
            if paragraph.startswith(_DIFFERENCE):
                text = _plain(paragraph.removeprefix(_DIFFERENCE))
                return text[0].upper() + text[1:]
    return ""


def _plain(text: str) -> str:
    """On one line, roles as code: :class:`~gridprune.x.Y` becomes `Y`."""
    return re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", " ".join(text.split()))


def describe() -> list[dict[str, Any]]:
    """What a runner must know about every method, as plain values: the rows of `gridprune methods --json`."""
    rows = []
    for name in available():
        method = get(name)()
        rows.append(
            {
                "name": name,
                "summary": summary(type(method)),
                "stage": method.stage,
                "fixed_count": method.fixed_count,
                "uses_text": method.uses_text,
                "needs": sorted(method.needs),
                "cost": method.cost,
                "paper": method.paper,
                "graph_safe": method.graph_safe,
                "difference": difference(type(method)),
            }
        )
    return rows
