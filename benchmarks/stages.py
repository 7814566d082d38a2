"""One model of real shape, stage by stage and end to end, against the model without pruning and against the limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch

from gridprune.bench.clock import Ratio, Timing
from gridprune.compat import CACHE
from gridprune.costs import LanguageModel
from gridprune.families.base import Encoded
from gridprune.methods.checks import checked_select
from gridprune.methods.gridprune import GridPrune
from gridprune.runtime.ask import cache_bytes
from gridprune.selection.selector import Selector

from . import ends
from .clock import Journal, free_cores, interleave, wall
from .memory import peak
from .rig import QUESTION, Rig
from .shapes import Shape, build_text

Progress = Callable[[str], None]
_COUNT_MEMORY_UP_TO = 30.0  # seconds of a call: it is made once more to count its tensors


@torch.no_grad()
def measure(shape: Shape, rounds: int, progress: Progress, journal: Journal | None = None) -> dict[str, Any]:
    """All stages of one shape; see :func:`benchmarks.run.bench` for the keys.

    Args:
        rounds: of the unpruned model and of research code; there are at least `shape.pairs` of pruned and native calls.
        journal: where measurements are kept one by one.
    """
    progress(f"{shape.name}: building")
    journal = journal or Journal()
    return _Bench(Rig(shape), rounds, lambda message: progress(f"{shape.name}: {message}"), journal).run()


class _Bench:
    def __init__(self, rig: Rig, rounds: int, progress: Progress, journal: Journal) -> None:
        self.rig, self.shape, self.rounds = rig, rig.shape, rounds
        self.progress, self.journal = progress, journal
        self.caches: dict[int, Any] = {}

    def run(self) -> dict[str, Any]:
        rig, shape = self.rig, self.shape
        for k in shape.keeps:
            rig.rows[k] = int(self.journal.once(f"rows {k}", partial(ends.rows, rig, k)))
        ended, stages = self._ended(), self._stages()
        decoding = self._decoding()
        total, n = len(rig.map), len(rig.map.candidates)
        called = {total: "unpruned"} | {k: f"native {k}" for k in shape.keeps}
        tower = rig.tower(ended, "unpruned")
        prefill = {length: rig.prefill(ended, name) for length, name in called.items()}
        whole = {name: rig.whole(ended, name) for name in ended if "/" not in name}
        text = stages["text"].median if "text" in stages else 0.0
        looking = text + stages["cues"].median + stages["decision"].median
        pruned = {k: Timing(tuple(s + text for s in whole[f"pruned {k}"].seconds)) for k in shape.keeps}

        def every(value: Callable[[int], Any]) -> dict[str, Any]:
            return {f"{n}/{k}": value(k) for k in shape.keeps}

        def rounded(value: float) -> float:
            return float(f"{value:.4g}")

        result = {
            "shape": self._shape(),
            "stages": {name: timing.to_list() for name, timing in (stages | decoding | ended).items()},
            "every_round": self.journal.values,
            "wall_two_threads": self._wall(),
            "extrapolated": {
                "tower": rounded(tower.median),
                "tower_read": rounded(rig.tower(ended, f"pruned {shape.keeps[-1]}").median),
                "prefill": {str(length): rounded(timing.median) for length, timing in prefill.items()},
                "decode_per_token": {
                    str(length): rounded(rig.decode(decoding, f"decode {length}").median) for length in rig.lengths
                },
                "first_token": {name: rounded(timing.median) for name, timing in whole.items()},
            },
            "decision_share_of_prefill": round(looking / whole["unpruned"].median, 6),
            "ratio_to_native": every(lambda k: Ratio.of(pruned[k], whole[f"native {k}"]).to_list()),
            "ratio_to_native_built": every(lambda k: Ratio.of(ended[f"pruned {k}"], ended[f"native {k}"]).to_list()),
            "extra_outside_modules": every(
                lambda k: [
                    round(extra / whole[f"native {k}"].median, 6) for extra in _extra(rig, ended, k, text).quartiles
                ]
            ),
            "rounds": self.rounds,
            "pairs": len(ended[f"native {shape.keeps[0]}"].seconds),
            "speedup": every(lambda k: rounded(Ratio.of(whole["unpruned"], pruned[k]).median)),
            "speedup_prefill": every(lambda k: rounded(Ratio.of(prefill[total], prefill[k]).median)),
            "speedup_tower": every(lambda k: rounded(Ratio.of(tower + prefill[total], tower + prefill[k]).median)),
            "speedup_flops": every(lambda k: rounded(self._flops(total) / self._flops(k))),
            "flops": {str(length): self._flops(length) for length in rig.lengths},
            "kv_bytes": {str(length): self._kv(length) for length in rig.lengths},
            "peak_bytes": self._peaks(ended["unpruned"].median),
        }
        if ends.has_cls(rig):
            result["research_over_pruned"] = every(lambda k: Ratio.of(whole[f"research {k}"], pruned[k]).to_list())
            result["speedup_research"] = every(
                lambda k: rounded(Ratio.of(whole["unpruned"], whole[f"research {k}"]).median)
            )
        return result

    def _shape(self) -> dict[str, Any]:
        rig, shape = self.rig, self.shape
        return {
            "name": shape.name,
            "visual_tokens": len(rig.map.candidates),
            "separators": len(rig.map) - len(rig.map.candidates),
            "text_tokens": shape.prompt,
            "rows": {str(k): rows for k, rows in rig.rows.items()},
            "layers_built": shape.build_layers,
            "layers": shape.layers,
            "tower_blocks_built": shape.build_tower,
            "tower_blocks": shape.tower_layers,
        }

    # -- end to end ----------------------------------------------------------------------------------------------

    def _ended(self) -> dict[str, Timing]:
        """Seconds to the first token, and of tower, language model and blocks within, all interleaved."""
        pairs = max(self.rounds, self.shape.pairs)
        calls = self._calls
        alone = {name: self.rounds for name in calls if name.split()[0] in ("unpruned", "research")}
        return interleave(
            calls, pairs, fewer=alone, inside=self.rig.inside, journal=self.journal, progress=self.progress
        )

    @cached_property
    def _calls(self) -> dict[str, ends.Call]:
        """The calls; what the unpruned and the pruned ones cached is kept for decoding."""
        calls = ends.variants(self.rig)
        kept = {"unpruned": len(self.rig.map)} | {f"pruned {k}": k for k in self.shape.keeps}

        def keeping(call: ends.Call, length: int) -> ends.Call:
            def run() -> Any:
                self.caches[length] = call().past_key_values

            return run

        return calls | {name: keeping(calls[name], length) for name, length in kept.items()}

    # -- stages --------------------------------------------------------------------------------------------------

    def _stages(self) -> dict[str, Timing]:
        """Seconds of what is not a module of the model."""
        rounds = 3 * self.rounds
        variants: dict[str, Callable[[], Any]] = {"cues": self._cues, "decision": self._decision}
        if any(len(self.journal.values.get(name, ())) < rounds for name in variants):
            self._decision()  # encodes the image, which is not what is timed
        if self.rig.text is not None:
            tower, question = build_text(self.rig.family.vision_config), torch.full((1, 16), 7)
            question[0, -1] = 3
            variants["text"] = lambda: tower(input_ids=question)
        variants |= self._processing()
        return interleave(
            variants,
            rounds,
            repeats={"cues": 3, "decision": 10, "text": 3},
            journal=self.journal,
            progress=self.progress,
        )

    @cached_property
    def _method(self) -> GridPrune:
        return GridPrune(keep=self.shape.keeps[-1])

    @cached_property
    def _selector(self) -> Selector:
        return Selector.of(self.rig.family, self.rig.side, self._method)

    @cached_property
    def _encoded(self) -> Encoded:
        rig = self.rig
        return self._selector.encode(rig.vision, [rig.map])

    def _cues(self) -> Any:
        return self._selector.cues(self._encoded, [0], [QUESTION])

    @cached_property
    def _collected(self) -> Any:
        return self._cues()

    def _decision(self) -> Any:
        return checked_select(self._method, self._collected, self.rig.map.candidates)

    def _processing(self) -> dict[str, Callable[[], Any]]:
        """The stock processor on a photograph of 640 x 480, where this family resizes to one size."""
        if not self.shape.one_size:
            return {}
        side = self.rig.family.vision_config.image_size
        from PIL import Image
        from transformers import CLIPImageProcessor

        processor = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
        image = Image.effect_noise((640, 480), 60).convert("RGB")
        return {"image processing": lambda: processor(image, return_tensors="pt")}

    def _cache(self, length: int) -> Any:
        """What the call left in its cache; where an earlier run made it, random numbers in one of the same shape."""
        if length not in self.caches:
            from transformers import DynamicCache

            config, rows = self.rig.language.config, self._length(length)
            head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
            cache = DynamicCache()
            for layer in range(self.shape.build_layers):
                keys, values = torch.randn(
                    2,
                    1,
                    config.num_key_value_heads,
                    rows,
                    head,
                    dtype=self.rig.model.dtype,
                    device=self.rig.model.device,
                )
                cache.update(keys, values, layer)
            self.caches[length] = cache
        return self.caches[length]

    def _held(self, length: int) -> int:
        return cache_bytes(self._cache(length))

    def _decoding(self) -> dict[str, Timing]:
        """One more token behind what the unpruned and the pruned calls left in the cache."""
        rig = self.rig
        token = torch.randn(1, 1, rig.language.config.hidden_size, dtype=rig.model.dtype, device=rig.model.device)

        def step(length: int) -> Any:
            states = rig.language(inputs_embeds=token, **{CACHE: self._cache(length)}, use_cache=True)
            return rig.model.lm_head(states.last_hidden_state)

        for length in rig.lengths:
            self.journal.once(f"kv {length}", partial(self._held, length))
        variants = {f"decode {length}": partial(step, length) for length in rig.lengths}
        return interleave(
            variants,
            2 * self.rounds,
            repeats=dict.fromkeys(variants, 4),
            inside={"layer": rig.inside["layer"]},
            journal=self.journal,
            progress=self.progress,
        )

    def _wall(self) -> dict[str, Any]:
        """Wall seconds of the built model with two threads."""
        if free_cores() < 2:
            return {"skipped": "this run had one core"}
        names = ["unpruned", *(f"pruned {k}" for k in self.shape.keeps)]
        return {name: self.journal.once(f"wall {name}", partial(wall, self._calls[name], 2)) for name in names}

    # -- memory and FLOPs ----------------------------------------------------------------------------------------

    def _peaks(self, seconds: float) -> dict[str, int]:
        """The most bytes one call holds beyond the weights, with the blocks that were built; none for long calls."""
        found: dict[str, int] = {}
        if seconds > _COUNT_MEMORY_UP_TO:
            return found
        for name in ("unpruned", f"pruned {self.shape.keeps[-1]}"):
            self.progress(f"memory, {name}")
            found[name] = int(self.journal.once(f"peak {name}", partial(peak, self._calls[name])))
        return found

    def _kv(self, visual: int) -> dict[str, int]:
        """Keys and values of the whole model, and as the cache of the built layers held them."""
        measured = int(self.journal.values[f"kv {visual}"][0])
        return {
            "all_layers": self._whole.kv_bytes(self._length(visual), self.rig.model.dtype.itemsize),
            "measured": measured,
            "measured_layers": self.shape.build_layers,
        }

    def _length(self, visual: int) -> int:
        """Of the prompt with all visual tokens, or pruned to `visual`."""
        return self.shape.prompt + self.rig.rows.get(visual, visual)

    def _flops(self, visual: int) -> float:
        """Multiplications and additions of the whole language model's prefill."""
        return 2.0 * self._whole.flops(self._length(visual))

    @property
    def _whole(self) -> LanguageModel:
        """The language model with all its layers, of which some are built."""
        return replace(LanguageModel.of(self.rig.language.config), layers=self.shape.layers)


def _extra(rig: Rig, ended: dict[str, Timing], k: int, text: float) -> Timing:
    """Seconds that pruning spends more than the limit outside tower, projector and language model."""
    pairs = zip(rig.outside(ended, f"pruned {k}").seconds, rig.outside(ended, f"native {k}").seconds)
    return Timing(tuple(pruned - native + text for pruned, native in pairs))
