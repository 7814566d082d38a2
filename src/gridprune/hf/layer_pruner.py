"""Dropping visual tokens between decoder layers of a live model.

Hooks on the decoder layers gather the hidden states before a stop, and position embeddings and masks for every layer
behind it. Position ids stay those of the full prompt. Layers before a stop keep their full cache, later ones a shorter
one; what each layer kept is remembered with the cache, so that decoding and later turns see the right mask columns.
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..compat import cache_of
from ..errors import SelectionError, UnsupportedCallError, UnsupportedModelError
from ..families.base import Family
from ..families.limits import Limit
from ..methods.base import Cues, Selection
from ..methods.checks import deciding
from ..methods.in_llm.base import DropPoint, InsideMethod, LayerView
from ..report.report import Report
from .cache_record import layers_of, recall, remember_layers
from .intercept import Interceptor
from .layers import arguments_left, attention_rows, decoder_layers, later_mask, states_at, true_columns
from .layout import PromptLayout
from .outputs import Columns
from .targets import Targets, router_logits
from .watch import watch


@dataclass
class Prefill:
    """One prefill in one thread.

    Attributes:
        visual: (B, N) columns of the visual tokens that are left, in the full prompt.
        text: (B, M) columns of text tokens, 0 where there is none, and `text_mask` which exist.
        columns: (B, W) columns of the full prompt that the current layers see.
        ids: (B, L) the full prompt, L tokens long.
        total: visual tokens of a row.
        stops: by layer.
        spans: the columns that layers see from each stop on.
        attention, keys: of the layer before, as it ran; inputs: what entered the first layer.
        sound: () bool, whether all choices so far named different tokens.
        planes: what the model adds behind a layer (DeepStack), by layer: (B, L, D), zeros but for visual tokens.
    """

    visual: Tensor
    text: Tensor
    text_mask: Tensor
    columns: Tensor
    ids: Tensor
    total: int
    stops: dict[int, DropPoint]
    spans: dict[int, Tensor] = field(default_factory=dict)  # first layer of a span -> columns
    attention: Tensor | None = None
    keys: Tensor | None = None
    inputs: Tensor | None = None
    sound: Tensor | None = None
    planes: dict[int, Tensor] = field(default_factory=dict)

    @property
    def outputs(self) -> Columns:
        """Where the parts of an output belong."""
        full = self.ids.shape[1]
        layouts = {columns.shape[1]: PromptLayout(columns.cpu().numpy(), full) for columns in self.spans.values()}
        return Columns(list(layouts.values()), list(layouts.values()))


# Before that version hooks run inside a checkpoint, and when the backward pass computes a layer again they see nothing.
_CHECKPOINTS = Limit("layers are computed again without the cut", before="5.23")


@dataclass(eq=False)
class DirectCall:
    """A direct call that is under way."""

    call: dict[str, Any]
    run: Prefill
    targets: Targets | None
    as_tuple: bool

    def finish(self, output: Any) -> Any:
        """The output at the caller's columns."""
        if self.targets is not None and self.run.spans:
            dropped = torch.ones_like(self.run.ids, dtype=torch.bool).scatter(1, self.run.columns, False)
            self.targets.exclude(dropped)
        output = self.run.outputs.aligned(output)
        return output.to_tuple() if self.as_tuple else output


class LayerPruner:
    """Applies an :class:`InsideMethod` to one model; a :class:`~gridprune.hf.intercept.Pruner`."""

    def __init__(self, family: Family, method: InsideMethod, reports: deque[Report], processor: Any = None) -> None:
        self.family, self.method, self.reports = family, method, reports
        self.processor = processor
        self.layers = decoder_layers(family.model)
        self.local = threading.local()
        self._undo = ExitStack()

    # -- the role an interceptor asks for ------------------------------------------------------------------------

    def generate(self, original: Callable[..., Any], call: dict[str, Any]) -> Any:
        """`model.generate` as it is: prompts are not shortened."""
        if call.get("prefill_chunk_size") is not None or call.get("assistant_model") is not None:
            raise UnsupportedCallError("Methods inside the language model need one undivided prefill.")
        outer = self._noted()
        self.local.vision, self.local.prefill = self._images(call), None
        try:
            output = original(**call)
            _, run = self._noted()
        finally:
            self.local.vision, self.local.prefill = outer
        return output if run is None or isinstance(output, Tensor) else run.outputs.generated(output)

    def _noted(self) -> tuple[dict[str, Any] | None, Prefill | None]:
        return getattr(self.local, "vision", None), getattr(self.local, "prefill", None)

    def before_forward(self, call: dict[str, Any], targets: Targets | None) -> DirectCall | None:
        """Note the prompt of a direct call."""
        self.local.vision = self._images(call)
        run = self.local.run = self._start(call)
        if run is None:
            return None
        wanted = call.get("return_dict")
        as_tuple = not (self.family.model.config.return_dict if wanted is None else wanted)
        call = {**call, "return_dict": True}
        if "logits_to_keep" in call:  # what is kept is up to the head: here it would cut off prompts
            call["logits_to_keep"] = 0
        return DirectCall(call, run, targets, as_tuple)

    def _images(self, call: dict[str, Any]) -> dict[str, Any] | None:
        """The vision arguments of a call."""
        videos = [stream for stream in self.family.streams if stream.modality == "video"]
        if any(stream.vision(call) for stream in videos) or "video" in (call.get("mm_encoder_outputs") or {}):
            raise UnsupportedCallError(
                f"{self.method.name} drops tokens of images inside the language model, not of videos. Use a method "
                "of the stage 'pre-llm', or give the frames as images."
            )
        return self.family.vision(call)

    def packed(self, call: dict[str, Any]) -> dict[str, Any]:
        """Note the prompt of a forward call made by `generate`."""
        run = self.local.run = self._start(call)
        if run is not None:
            self.local.prefill = run
        return call

    # -- hooks ---------------------------------------------------------------------------------------------------

    def install(self) -> None:
        """Put the hooks on the decoder layers."""
        with ExitStack() as undo:
            stops = self.method.stop_layers(len(self.layers))
            for index in range(min(stops), len(self.layers)):
                hook = self.layers[index].register_forward_pre_hook(self._before_layer(index), with_kwargs=True)
                undo.callback(hook.remove)
            first = self.layers[0].register_forward_pre_hook(self._keep_inputs, with_kwargs=True)
            undo.callback(first.remove)
            decoder = self.family.model.get_decoder().register_forward_pre_hook(self._take_planes, with_kwargs=True)
            undo.callback(decoder.remove)
            last = self.layers[-1].register_forward_hook(self._finish, always_call=True)
            undo.callback(last.remove)
            for index in stops:
                undo.callback(watch(self.layers[index - 1].self_attn, self._keep_attention))
            self._undo = undo.pop_all()

    def uninstall(self) -> None:
        """Take them off again."""
        self._undo.close()

    def _answers(self) -> bool:
        """Whether the layers run in a call that this engine answers: others may have their hooks on them too."""
        return Interceptor.answers(self.family.model, self)

    def _run(self) -> Prefill | None:
        return getattr(self.local, "run", None) if self._answers() else None

    def _start(self, call: dict[str, Any]) -> Prefill | None:
        ids, cache = call.get("input_ids"), cache_of(call)
        if ids is not None and not recall(cache, len(ids), inside=True).plain:
            raise UnsupportedCallError(
                f"The cache holds a prompt that was pruned before the language model; {self.method.name} prunes inside "
                "it. Start a new cache."
            )
        if ids is None or not (call.get("mm_encoder_outputs") or self.family.vision(call)):
            return None
        if router_logits(call, self.family.model.config):
            raise UnsupportedCallError(
                f"{self.method.name} leaves fewer tokens to later layers, so experts have no balancing loss over all "
                "layers: call without output_router_logits, or use a method that prunes before the language model."
            )
        if cache is not None and int(cache.get_seq_length()) > 0:
            raise UnsupportedCallError(
                f"{self.method.name} prunes inside the language model and takes images in the first turn of a cache "
                "only. Start a new cache, or use a method that prunes before the language model."
            )
        mask = call.get("attention_mask")
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None or mask.dim() != 2 else mask.bool()
        visual = (ids == self.family.placeholder) & real
        counts = visual.sum(1).tolist()
        if len(set(counts)) != 1:
            raise UnsupportedCallError(
                f"{self.method.name} needs equally many visual tokens in every row of a batch, got {counts}. Ask one "
                "row at a time."
            )
        total, depth = counts[0], len(self.layers)
        if total == 0:
            return None
        budget = self.method.budget.resolve(total)
        stops = {} if budget == total else {stop.layer: stop for stop in self.method.stops(total, depth)}
        if stops and _CHECKPOINTS.holds and any(_checkpointed(layer) for layer in self.layers):
            raise UnsupportedCallError(
                f"{self.method.name} cannot be trained with under gradient checkpointing here: {_CHECKPOINTS}. "
                "Upgrade, or use a method that prunes before the language model."
            )
        text, text_mask = true_columns(real & ~visual)
        return Prefill(
            visual=true_columns(visual)[0],
            text=text,
            text_mask=text_mask,
            columns=torch.arange(ids.shape[1], device=ids.device).repeat(len(ids), 1),
            ids=ids,
            total=total,
            stops=stops,
        )

    def _report(self, run: Prefill, ids: Tensor) -> None:
        """One report per image, of what the last layer sees."""
        if run.sound is not None and not bool(run.sound):
            raise SelectionError(f"{self.method.name} chose a visual token twice, or one that is not there.")
        vision = getattr(self.local, "vision", None)
        if vision is None:
            return
        depth, kept = len(self.layers), run.visual.cpu()
        places = self.family.locate(ids.cpu(), vision) or []
        maps = [place.token_map for place in places]
        for number, place in enumerate(places):
            content = place.columns[~place.token_map.separator]
            stays = torch.isin(content, kept[place.row]).nonzero()[:, 0]
            report = Report.build(
                method=self.method,
                family=self.family,
                token_map=place.token_map,
                selection=Selection(stays[None]),
                cues=Cues(),
                row=0,
                kept=stays,
                question="",
                image=functools.partial(self.family.image, vision, maps, number),
                processor=self.processor,
                encode_seconds=None,
                decision_seconds=None,
                layer_average=self.method.average(run.total, depth) if run.stops else float(run.total),
            )
            self.reports.append(report)

    def _finish(self, module: nn.Module, args: object, output: object) -> None:
        """The last layer is through, or failed: the prefill is over."""
        run = self._run()
        self.local.run = None
        if run is not None and output is not None:
            self._report(run, run.ids)

    def _take_planes(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Of DeepStack's planes the model adds those in front of the first stop; the others are added here, to the
        tokens that are left then."""
        run, planes = self._run(), kwargs.get("deepstack_visual_embeds")
        if run is None or not run.stops or planes is None:
            return None
        if len(planes) >= len(self.layers):
            raise UnsupportedModelError(
                f"{type(module).__name__} adds visual features after its last layer. Use a method of stage 'pre-llm'."
            )
        first, visual = min(run.stops), kwargs["visual_pos_masks"]
        for layer in range(first, len(planes)):
            whole = planes[layer].new_zeros(*visual.shape, planes[layer].shape[-1])
            run.planes[layer] = whole.masked_scatter(visual[..., None], planes[layer])
        return args, {**kwargs, "deepstack_visual_embeds": planes[:first]}

    def _keep_inputs(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        run = self._run()
        if run is not None:
            run.inputs = (args[0] if args else kwargs["hidden_states"]).detach()

    def _keep_attention(self, query: Tensor, key: Tensor, mask: Tensor | None) -> None:
        run = self._run()
        if run is None or not run.stops:
            return
        where = torch.searchsorted(run.columns, run.visual)  # columns are ascending in every row
        run.keys = key.detach()
        if self.method.rows == "none":
            return
        rows = run.columns.shape[1] - 1 + torch.zeros_like(run.text[:, :1])
        if self.method.rows == "text":
            rows = torch.searchsorted(run.columns, run.text)
        with deciding(query.device):
            found = attention_rows(query, key, mask, rows)
        run.attention = found.gather(2, where[:, None].expand(-1, rows.shape[1], -1))

    def _before_layer(self, index: int) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if not self._answers():
                return None
            cache, run = cache_of(kwargs), self._run()
            if run is None:
                self._check_window(cache)
                return args, later_mask(kwargs, cache, index)
            if not run.stops:
                return None
            hidden = args[0] if args else kwargs["hidden_states"]
            if index - 1 in run.planes:
                hidden = hidden + states_at(run.planes.pop(index - 1), run.columns).to(hidden)
            if index in run.stops:
                with deciding(hidden.device):
                    chosen = self._drop(run, index, hidden, cache)
                hidden = states_at(hidden, chosen)
            # Checkpoints see gradients of positional arguments only.
            return (hidden,), {
                name: value for name, value in arguments_left(kwargs, run).items() if name != "hidden_states"
            }

        return hook

    def _check_window(self, cache: Any) -> None:
        """Layers that see a window of the last tokens cannot slide it over the tokens that are gone."""
        window = self.family.window
        if layers_of(cache) is not None and window and int(cache.get_seq_length()) > window:
            raise UnsupportedCallError(
                f"Layers of {type(self.family.model).__name__} see the last {window} tokens, and behind this prompt "
                "it is not known which these are. Use a method of the stage 'pre-llm'."
            )

    def _drop(self, run: Prefill, index: int, hidden: Tensor, cache: Any) -> Tensor:
        """(B, n) places of the tokens that stay; `run` is brought up to date."""
        places = torch.searchsorted(run.columns, run.visual)
        text = torch.searchsorted(run.columns, run.text)
        assert run.inputs is not None
        assert run.keys is not None
        keys = run.keys.transpose(1, 2).flatten(2)  # [B, W, C]
        view = LayerView(
            layer=index,
            attention=run.attention,
            states=states_at(hidden, places),
            inputs=states_at(run.inputs, run.visual),
            keys=states_at(keys, places),
            text_keys=states_at(keys, text),
            text_states=states_at(hidden, text),
            text_inputs=states_at(run.inputs, run.text),
            text_mask=run.text_mask,
        )
        picked = self.method.choose(view, run.stops[index].kept)
        sound = (picked.diff(dim=1) > 0).all() & (picked >= 0).all() & (picked < run.visual.shape[1]).all()
        run.sound = sound if run.sound is None else run.sound & sound
        kept = run.visual.gather(1, picked.clamp(0, run.visual.shape[1] - 1))
        stays = torch.ones_like(run.columns, dtype=torch.bool)
        stays.scatter_(1, places, False).scatter_(1, torch.searchsorted(run.columns, kept), True)
        width = run.columns.shape[1] - places.shape[1] + kept.shape[1]
        chosen = (~stays).to(torch.uint8).argsort(dim=1, stable=True)[:, :width]
        run.columns, run.visual = run.columns.gather(1, chosen), kept
        run.spans[index] = run.columns
        if cache is not None:
            remember_layers(cache, run.ids.shape[1], run.spans)
        return chosen


def _checkpointed(layer: nn.Module) -> bool:
    return layer.training and bool(getattr(layer, "gradient_checkpointing", False))
