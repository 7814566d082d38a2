"""One evaluation from start to end: open or continue a run, answer, summarise."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..core.budget import Keep
from ..errors import SettingError
from ..files import sole_writer
from ..methods.base import Method
from ..methods.spec import MethodSpec
from ..runtime.ask import Loaded
from . import ablations, entries, kept, timing
from .data import DataSet, Scene
from .downsample import shrinks_image
from .metrics import summarise
from .own import PerQuestion
from .shared import Shared, cells
from .store import GROUP, RunFolder, config_of, row_of, write_json

Progress = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What to run.

    Attributes:
        methods: the competitors.
        keeps: budgets; every method runs at each of them.
        data: the questions.
        command: as a person would type it again, for config.json.
        max_new_tokens: longest answer; None for the checkpoint's own limit.
    """

    methods: Sequence[MethodSpec]
    keeps: Sequence[Keep]
    data: DataSet
    command: str = ""
    max_new_tokens: int | None = None

    def engine(self, loaded: Loaded) -> Shared | PerQuestion:
        """What answers: generated questions share images and prompts, others are asked one by one."""
        wanted = cells(self.methods, self.keeps)
        if self.data.file is None:
            return Shared(loaded, wanted, self.max_new_tokens)
        return PerQuestion(loaded, wanted, self.max_new_tokens or 32)

    def config(self, loaded: Loaded) -> dict[str, Any]:
        """See :func:`gridprune.eval.store.config_of`."""
        return config_of(
            model_name=Path(loaded.name).name if Path(loaded.name).is_dir() else loaded.name,
            model=loaded.model,
            clip=loaded.text_tower(),
            max_new_tokens=self.max_new_tokens,
            data=self.data,
            methods=[describe(entry, self.keeps) for entry in self.methods],
            keeps=list(self.keeps),
            command=self.command,
        )


def _loaded_engine(evaluation: Evaluation, load: Callable[[], Loaded]) -> Shared | PerQuestion:
    return evaluation.engine(load())


def describe(entry: MethodSpec, keeps: Sequence[Keep]) -> dict[str, Any]:
    """An entry as config.json holds it: label, all settings, its budgets, and whether it is a peer of gridprune."""
    method = entry.method("50%")
    rival = method.fixed_count and entry.name != "keep-all" and _deployable_rival(method)
    peer = rival or shrinks_image(method)
    found = [cell.keep for cell in cells([entry], keeps)]
    return {"label": entry.label, "settings": entries.plain(entry), "keeps": found, "peer": peer}


def _deployable_rival(method: Method) -> bool:
    """Whether neither the method nor one it holds is of gridprune itself or exists in runs only."""
    if method.name in ablations.BENCH_ONLY or method.own:
        return False
    return all(_deployable_rival(value) for value in vars(method).values() if isinstance(value, Method))


def evaluate(
    loaded: Loaded,
    evaluation: Evaluation,
    folder: RunFolder,
    *,
    config: dict[str, Any] | None = None,
    fresh: bool = False,
    progress: Progress = lambda done: None,
    time_rounds: int = 12,
    workers: int = 1,
    load: Callable[[], Loaded] | None = None,
) -> dict[str, Any]:
    """Run or continue, and return the metrics, which are also written to the folder.

    Args:
        config: of the evaluation, if it is at hand.
        fresh: throw away rows of an earlier run in the folder.
        progress: called with the number of questions answered so far.
        time_rounds: scenes on which decisions are timed; 0 leaves timing out.
        workers: processes that answer, one thread each; 1 is this process and torch's threads. The rows are the same.
        load: loads the model once more, in each of several workers; it must pickle.

    Raises:
        BusyError: another process writes to the folder.
        SettingError: the folder holds another run, an entry cannot be compared, every question failed, or there are
            workers and nothing to load their model with.
        MissingCueError: a method needs a cue this model cannot give.
    """
    entries.check(list(evaluation.methods))
    if workers > 1 and load is None:
        raise SettingError("Every worker loads the model anew: give `load`, such as partial(runtime.load, name).")
    config, engine = config or evaluation.config(loaded), evaluation.engine(loaded)
    with sole_writer(folder.path):
        rows = folder.open(config, fresh=fresh)
        groups: Iterable[list[dict[str, Any]]] = _Groups(evaluation, len(rows), lambda: engine)
        if workers > 1:
            assert load is not None
            groups = _Groups(evaluation, len(rows), partial(_loaded_engine, evaluation, load)).shared_out(workers)
        metrics = _answered(engine, groups, rows, evaluation, folder, config, progress, time_rounds)
        write_json(folder.path / "metrics.json", metrics)
    return metrics


def _answered(
    engine: Shared | PerQuestion,
    groups: Iterable[list[dict[str, Any]]],
    rows: list[dict[str, Any]],
    evaluation: Evaluation,
    folder: RunFolder,
    config: dict[str, Any],
    progress: Progress,
    time_rounds: int,
) -> dict[str, Any]:
    """Answer what the folder does not hold yet; the metrics of all its rows."""
    progress(_questions(rows))
    for answered in [] if folder.complete else groups:
        folder.append(answered)
        rows.extend(answered)
        progress(_questions(rows))
    metrics = summarise(rows, config)  # before the run counts as complete: it may be that every question failed
    if not folder.complete:
        if time_rounds and isinstance(engine, Shared):
            write_json(folder.path / "timing.json", timing.measure(engine, evaluation.data, time_rounds))
        folder.finish()
    return metrics


def _questions(rows: Sequence[dict[str, Any]]) -> int:
    return sum(len(row["questions"]) + len(row.get("failed", ())) for row in rows)


class _Groups(IterableDataset[list[dict[str, Any]]]):
    """The rows of the scenes that are still to answer, in the groups of an uninterrupted run.

    Several workers take the groups in turns; whose turn it is not only remembers the scenes.
    """

    def __init__(self, evaluation: Evaluation, first: int, engine: Callable[[], Shared | PerQuestion]) -> None:
        self.evaluation, self.first, self.engine = evaluation, first, engine

    def shared_out(self, workers: int) -> DataLoader[list[dict[str, Any]]]:
        """The same, by several processes."""
        return DataLoader(self, batch_size=None, num_workers=workers, multiprocessing_context="spawn")

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        worker, engine = get_worker_info(), self.engine()
        part, parts = (0, 1) if worker is None else (worker.id, worker.num_workers)
        scenes, before = self.evaluation.data.scenes(), 0
        for number in itertools.count():
            if not (group := list(itertools.islice(scenes, GROUP))):
                return
            if number * GROUP < self.first or number % parts != part:
                engine.remember(group[-1])
            else:
                yield self._rows(engine, group, before)
            before += sum(len(scene.questions) for scene in group)

    @staticmethod
    def _rows(engine: Shared | PerQuestion, group: list[Scene], before: int) -> list[dict[str, Any]]:
        rows = []
        for result in engine.run(group):
            rows.append(row_of(result, with_kept=before < kept.QUESTIONS))
            before += len(result.scene.questions)
        return rows
