"""One evaluation from start to end: open or continue a run, answer, summarise."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.budget import Keep
from ..files import sole_writer
from ..methods.base import Method
from ..methods.spec import MethodSpec
from ..runtime.ask import Loaded
from . import ablations, entries, kept, timing
from .data import DataSet, Scene
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


def describe(entry: MethodSpec, keeps: Sequence[Keep]) -> dict[str, Any]:
    """An entry as config.json holds it: label, all settings, its budgets, and whether it is a peer of gridprune."""
    method = entry.method("50%")
    peer = method.fixed_count and entry.name != "keep-all" and _deployable_rival(method)
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
) -> dict[str, Any]:
    """Run or continue, and return the metrics, which are also written to the folder.

    Args:
        config: of the evaluation, if it is at hand.
        fresh: throw away rows of an earlier run in the folder.
        progress: called with the number of questions answered so far.
        time_rounds: scenes on which decisions are timed; 0 leaves timing out.

    Raises:
        BusyError: another process writes to the folder.
        SettingError: the folder holds another run, an entry cannot be compared, or every question failed.
        MissingCueError: a method needs a cue this model cannot give.
    """
    entries.check(list(evaluation.methods))
    wanted = cells(evaluation.methods, evaluation.keeps)
    config = config or evaluation.config(loaded)
    engine: Shared | PerQuestion = (
        Shared(loaded, wanted, evaluation.max_new_tokens)
        if evaluation.data.file is None
        else PerQuestion(loaded, wanted, evaluation.max_new_tokens or 32)
    )
    with sole_writer(folder.path):
        metrics = _answered(engine, evaluation, folder, config, fresh, progress, time_rounds)
        write_json(folder.path / "metrics.json", metrics)
    return metrics


def _answered(
    engine: Shared | PerQuestion,
    evaluation: Evaluation,
    folder: RunFolder,
    config: dict[str, Any],
    fresh: bool,
    progress: Progress,
    time_rounds: int,
) -> dict[str, Any]:
    """Answer what the folder does not hold yet; the metrics of all its rows."""
    rows = folder.open(config, fresh=fresh)
    done = sum(len(row["questions"]) + len(row.get("failed", ())) for row in rows)
    progress(done)
    for group in [] if folder.complete else _groups(evaluation.data.scenes(), len(rows), engine):
        answered = []
        for result in engine.run(group):
            answered.append(row_of(result, with_kept=done < kept.QUESTIONS))
            done += len(result.scene.questions)
        folder.append(answered)
        rows.extend(answered)
        progress(done)
    metrics = summarise(rows, config)  # before the run counts as complete: it may be that every question failed
    if not folder.complete:
        if time_rounds and isinstance(engine, Shared):
            write_json(folder.path / "timing.json", timing.measure(engine, evaluation.data, time_rounds))
        folder.finish()
    return metrics


def _groups(scenes: Iterator[Scene], answered: int, engine: Any) -> Iterator[list[Scene]]:
    """The scenes that are still to answer, in the groups of an uninterrupted run."""
    for scene in itertools.islice(scenes, answered):
        engine.remember(scene)
    while group := list(itertools.islice(scenes, GROUP)):
        yield group
