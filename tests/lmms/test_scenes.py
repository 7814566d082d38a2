"""lmms-eval end to end on the embedded model: the same answers and scores as `gridprune eval`, question by question."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("lmms_eval", reason="`make test-lmms` has an environment with lmms-eval", exc_type=ImportError)

from lmms_eval.evaluator import simple_evaluate
from lmms_eval.models import get_model
from lmms_eval.tasks import TaskManager
from lmms_eval.utils import load_yaml_config

from gridprune.errors import (
    BudgetError,
    CheckpointError,
    ImageError,
    SettingError,
    UnknownNameError,
    UnsupportedCallError,
)
from gridprune.eval import data, entries, metrics, shared, store
from gridprune.lmms import TASKS, retention
from gridprune.runtime import load

TASK, QUESTIONS = "gridprune_scenes", 30
METHODS = ["gridprune", "gridprune(zone=3, temperature=0.05)", "fastervlm"]


@pytest.fixture(autouse=True, scope="module")
def offline():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


def lmms_eval(model_args: str, batch_size: int = 1):
    """What `lmms-eval --model gridprune` does, less the indexing of all its own tasks."""
    manager = TaskManager(include_path=str(TASKS), include_defaults=False, model_name="gridprune")
    return simple_evaluate(
        model="gridprune",
        model_args=model_args,
        tasks=[TASK],
        task_manager=manager,
        limit=QUESTIONS,
        batch_size=batch_size,
        device="cpu",
        bootstrap_iters=0,
    )


@pytest.fixture(scope="module")
def expected():
    """Rows and metrics of `gridprune eval` on the same questions."""
    asked = data.generated("dev", QUESTIONS)
    engine = shared.Shared(load("embedded"), shared.cells([entries.parse(method) for method in METHODS], [64]))
    rows = [store.row_of(result) for result in engine.run(list(asked.scenes()))]
    return rows, metrics.Table.of(rows, sorted(asked.unscored))


@pytest.mark.parametrize(
    ("model_args", "batch_size", "cell"),
    [
        ("pretrained=embedded,keep=64", 1, "gridprune|64"),
        ("pretrained=embedded,method=gridprune,keep=11.1%,zone=3,temperature=0.05", 7, f"{METHODS[1]}|64"),
        ("method=fastervlm,keep=64,dtype=float32", 4, "fastervlm|64"),
        ("pretrained=embedded,keep=all", 4, "full"),
    ],
)
def test_scores_equal_those_of_gridprune_eval(expected, model_args, batch_size, cell):
    rows, table = expected
    found = lmms_eval(model_args, batch_size)
    samples = sorted(found["samples"][TASK], key=lambda sample: sample["doc_id"])
    assert len(samples) == QUESTIONS
    questions = [(question, answer) for row in rows for question, answer in zip(row["questions"], row["answers"][cell])]
    for sample, ((_, kind, text, right), answer) in zip(samples, questions):
        assert (sample["doc"]["question"], sample["target"], sample["doc"]["kind"]) == (text, right, kind)
        given = sample["filtered_resps"][0]
        assert given == (right if answer == 1 else answer), text
    scores = found["results"][TASK]
    assert scores["accuracy,none"] == pytest.approx(table.accuracy(cell))
    # lmms-eval sees one run at a time: its mean holds kinds too of which the unpruned model answers nothing
    scored = [kind != "describe" for kind in table.kinds]
    by_kind = (table.right[cell].sum(0) / table.asked.sum(0))[scored]
    assert scores["mean_accuracy,none"] == pytest.approx(by_kind.mean())
    kept = 576 if cell == "full" else 64
    assert found["throughput"]["avg_visual_tokens"] == 576
    assert found["throughput"]["avg_visual_tokens_kept"] == kept


def test_the_methods_differ(expected):
    """Otherwise equal scores would say nothing."""
    rows, _ = expected
    answers = {cell: [a for row in rows for a in row["answers"][cell]] for cell in rows[0]["answers"]}
    assert answers["fastervlm|64"] != answers["full"]
    assert answers["fastervlm|64"] != answers["gridprune|64"]


def test_the_entry_point_is_found():
    assert get_model("gridprune").__module__ == "gridprune.lmms.model"


@pytest.mark.parametrize(
    ("model_args", "error", "message"),
    [
        ("keep=0", BudgetError, "at least one"),
        ("keep=1.5", BudgetError, r"\(0, 1\]"),
        ("keep=577,method=random", BudgetError, "only 576"),
        ("method=gridprone", UnknownNameError, "gridprune"),
        ("method=oracle", UnknownNameError, "evidence"),
        ("zoom=3", SettingError, "zone"),
        ("keep=all,zone=3", SettingError, "no effect"),
        ("batch_size=auto", SettingError, "batch_size"),
        ("pretrained=./nothing", CheckpointError, "nothing"),
        ("min_pixels=3136", SettingError, "resize"),
        ("resize=672", SettingError, "width x height"),
    ],
)
def test_bad_arguments_are_clear_errors(model_args, error, message):
    with pytest.raises(error, match=message):
        ask_new_model(model_args)


def ask_new_model(model_args):
    """A count above N shows only when there is an image."""
    model = get_model("gridprune").create_from_arg_string(model_args, {"device": "cpu"})
    return ask(model, [image_and("Is there a bird?")])


@pytest.fixture(scope="module")
def model():
    return get_model("gridprune").create_from_arg_string("keep=64,resize=192x192", {"device": "cpu", "batch_size": 3})


def image_and(text, images=1, kind="image"):
    scene = next(data.generated("dev", 1).scenes()).image
    media = [{"type": kind, "url": scene.resize((100, 60))} for _ in range(images)]
    return [{"role": "user", "content": [*media, {"type": "text", "text": text}]}]


def ask(model, conversations):
    """The model's answers to conversations, in the form in which lmms-eval asks."""
    from lmms_eval.api.instance import Instance

    model.task_dict = {"t": {"test": list(range(len(conversations)))}}
    about = {"task": "t", "doc_id": 0, "repeats": 1}
    requests = [
        Instance("generate_until", (f"{i}", conversations.__getitem__, {"max_new_tokens": 4}, i, "t", "test"), 0, about)
        for i in range(len(conversations))
    ]
    return [answer.text for answer in model.generate_until(requests)]


def test_batches_of_several_and_no_images(model, monkeypatch):
    """Four questions in batches of three are two calls of the model, and the answers are those of one by one."""
    asked = [("Is there a bird?", 1), ("Is there a bird?", 0), ("How many cats are there?", 2), ("Is there a cat?", 1)]
    alone = [ask(model, [image_and(*one)])[0] for one in asked]
    rows, generate = [], model.loaded.model.generate

    def counted(**inputs):
        rows.append(len(inputs["input_ids"]))
        return generate(**inputs)

    monkeypatch.setattr(model.loaded.model, "generate", counted)
    assert ask(model, [image_and(*one) for one in asked]) == alone
    assert rows == [3, 1]


def hooks(model):
    return [[*part._forward_hooks.values(), *part._forward_pre_hooks.values()] for part in model.loaded.model.modules()]


def test_a_row_fails_alone(model, monkeypatch, caplog):
    asked = [image_and("Is there a bird?"), image_and("Is there <image> a bird?"), image_and("Is there a cat?")]
    line = image_and("Is there a bird?")
    line[0]["content"][0]["url"] = Image.new("RGB", (30_000, 1))
    alone = [ask(model, [asked[i]])[0] for i in (0, 2)]
    before = hooks(model)  # those of transformers
    assert ask(model, [asked[0], asked[1], line, asked[2]]) == [alone[0], "", "", alone[1]]
    assert len([record for record in caplog.records if "has no answer" in record.message]) == 2
    assert hooks(model) == before
    with pytest.raises(ImageError, match="200 times"):  # all of them
        ask(model, [line, line])


def test_what_is_not_offered_says_so(model):
    with pytest.raises(UnsupportedCallError, match="video"):
        ask(model, [image_and("What happens?", kind="video")])
    with pytest.raises(UnsupportedCallError, match="likelihood"):
        model.loglikelihood([])
    with pytest.raises(UnsupportedCallError, match="rounds"):
        model.generate_until_multi_round([])


def test_without_a_chat_template(model, monkeypatch):
    monkeypatch.setattr(model.processor, "chat_template", None)
    monkeypatch.setattr(model.tokenizer, "chat_template", None)
    with pytest.raises(CheckpointError, match="chat template"):
        ask(model, [image_and("Is there a bird?", 2)])


def test_the_question_is_read_from_the_tasks_messages(model, monkeypatch):
    """Words that look like the template's own are words; of several turns the last one guides."""
    seen = []
    monkeypatch.setattr(
        model, "_prune", lambda question, made=model._prune: seen.append(question) or made(question=question)
    )
    first, last = image_and("Is there a bird?"), image_and("Does <ans> mean yes?")
    no = {"role": "assistant", "content": [{"type": "text", "text": "no"}]}
    ask(model, [[*first, no, *last], first])
    assert seen == [["Does <ans> mean yes?"] * 2 + ["Is there a bird?"]]


def test_tasks_of_the_recipes_exist_with_their_metrics():
    """Read from lmms-eval's own task files; no data is fetched."""
    manager = TaskManager()
    recipes = [file.read_text() for file in (Path(__file__).parents[2] / "recipes").glob("*-7b.sh")]
    named = {task for text in recipes for task in re.findall(r"^tasks=(.+)$", text, re.M)[0].split(",")}
    assert named <= set(retention.SCORES)
    for task, wanted in retention.SCORES.items():
        if task == TASK:
            continue
        file = manager.task_index[task]["yaml_path"]
        listed = {metric["metric"] for metric in load_yaml_config(file, mode="simple")["metric_list"]}
        assert set(wanted) <= listed, task


@pytest.mark.slow
def test_two_processes_answer_what_one_does(tmp_path):
    """The command line itself, data-parallel; torch starts the processes, for accelerate starts one alone on CPUs."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = ["--model", "gridprune", "--model_args", "pretrained=embedded,method=fastervlm,keep=64"]
    arguments += ["--include_path", str(TASKS), "--tasks", TASK, "--limit", "9", "--device", "cpu", "--log_samples"]
    done = subprocess.run(
        [sys.executable, *launch, "-m", "lmms_eval", *arguments, "--output_path", str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert re.search(r"answering: 100%.* 5/5 ", done.stderr), "the first process has five of nine documents"
    (results,) = Path(tmp_path).rglob("*_results.json")
    (samples,) = Path(tmp_path).rglob("*_samples_*.jsonl")
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    given = {line["doc_id"]: line["filtered_resps"] for line in lines}
    alone = lmms_eval("method=fastervlm,keep=64")["samples"][TASK]
    assert {i: given[i] for i in range(9)} == {s["doc_id"]: s["filtered_resps"][0] for s in alone if s["doc_id"] < 9}
    found = json.loads(results.read_text())
    assert found["n-samples"][TASK]["effective"] == 9
    assert found["results"][TASK]["accuracy,none"] == sum(s["accuracy"] for s in alone if s["doc_id"] < 9) / 9
