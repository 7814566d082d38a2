"""lmms-eval end to end on the embedded model: the same answers and scores as `gridprune eval`, question by question."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from itertools import chain
from pathlib import Path
from statistics import mean

import pytest
from PIL import Image

pytest.importorskip("lmms_eval", reason="`make test-lmms` has an environment with lmms-eval", exc_type=ImportError)

from lmms_eval.evaluator import simple_evaluate
from lmms_eval.models import get_model
from lmms_eval.protocol import ChatMessages
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
from gridprune.eval import data, entries, shared, store
from gridprune.lmms import TASKS, retention
from gridprune.lmms.model import _until
from gridprune.lmms.scenes import group_of
from gridprune.runtime import load

GROUPS = ("gridprune_vqa", "gridprune_text", "gridprune_grounding")
LIMIT, QUESTIONS = 8, 110  # of each task; of `gridprune eval`, which must come by all of those
METHODS = ["gridprune", "gridprune(zone=3, temperature=0.05)", "fastervlm", "downsample"]


@pytest.fixture(autouse=True, scope="module")
def offline():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


def lmms_eval(model_args: str, batch_size: int = 1, task: str = "gridprune_scenes", limit: int = LIMIT):
    """What `lmms-eval --model gridprune` does, less the indexing of all its own tasks."""
    manager = TaskManager(include_path=str(TASKS), include_defaults=False, model_name="gridprune")
    return simple_evaluate(
        model="gridprune",
        model_args=model_args,
        tasks=[task],
        task_manager=manager,
        limit=limit,
        batch_size=batch_size,
        device="cpu",
        bootstrap_iters=0,
    )


@pytest.fixture(scope="module")
def expected():
    """What `gridprune eval` has, by cell and id of a question: its kind, its text, the right answer, the given one."""
    asked = data.generated("dev", QUESTIONS)
    engine = shared.Shared(load("embedded"), shared.cells([entries.parse(method) for method in METHODS], [64]))
    found: dict[str, dict[str, tuple[str, str, str, str]]] = {}
    for row in map(store.row_of, engine.run(list(asked.scenes()))):
        for cell, answers in row["answers"].items():
            for (name, kind, text, right), given in zip(row["questions"], answers):
                found.setdefault(cell, {})[name] = kind, text, right, right if given == 1 else given
    return found


@pytest.mark.parametrize(
    ("model_args", "batch_size", "cell"),
    [
        ("pretrained=embedded,keep=64", 1, "gridprune|64"),
        ("pretrained=embedded,method=gridprune,keep=11.1%,zone=3,temperature=0.05", 7, f"{METHODS[1]}|64"),
        ("method=fastervlm,keep=64,dtype=float32", 4, "fastervlm|64"),
        ("pretrained=embedded,keep=all", 4, "full"),
        ("pretrained=embedded,method=downsample,keep=64", 4, "downsample|64"),
    ],
)
def test_answers_equal_those_of_gridprune_eval(expected, model_args, batch_size, cell):
    found = lmms_eval(model_args, batch_size)
    for task in GROUPS:
        right = defaultdict(list)
        assert len(found["samples"][task]) == LIMIT
        for sample in found["samples"][task]:
            kind, text, answer, given = expected[cell][sample["doc"]["id"]]
            assert (sample["doc"]["kind"], sample["doc"]["question"], sample["target"]) == (kind, text, answer)
            assert sample["filtered_resps"][0] == given, text
            right[kind].append(given == answer)
        scores = found["results"][task]
        assert scores["accuracy,none"] == pytest.approx(mean(chain.from_iterable(right.values())))
        right.pop("describe", None)  # in no mean over kinds
        assert scores["mean_accuracy,none"] == pytest.approx(mean(map(mean, right.values())))
    kept = 576 if cell == "full" else 64
    assert found["throughput"]["avg_images"] == 3 * LIMIT
    assert found["throughput"]["avg_visual_tokens"] == (64 if cell == "downsample|64" else 576)
    assert found["throughput"]["avg_visual_tokens_kept"] == kept


def test_groups_ask_what_they_say(expected):
    kinds = {kind for kind, *_ in expected["full"].values()}
    groups = {group: {kind for kind in kinds if group_of(kind) == group} for group in ("vqa", "text", "grounding")}
    assert groups["text"] == {"reading"}
    assert groups["grounding"] == {"position", "region", "relation"}
    assert groups["vqa"] == {"exist", "attribute", "count", "choice", "describe"}


def test_the_methods_differ(expected):
    """Otherwise equal answers would say nothing."""
    assert expected["fastervlm|64"] != expected["full"]
    assert expected["fastervlm|64"] != expected["gridprune|64"]


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


def ask(model, conversations, padding=0):
    """The model's answers to conversations, in the form in which lmms-eval asks."""
    from lmms_eval.api.instance import Instance
    from lmms_eval.evaluator import _clone_padding_request

    model.task_dict = {"t": {"test": list(range(len(conversations)))}}
    about = {"task": "t", "doc_id": 0, "repeats": 1}
    requests = [
        Instance("generate_until", (f"{i}", conversations.__getitem__, {"max_new_tokens": 4}, i, "t", "test"), 0, about)
        for i in range(len(conversations))
    ]
    requests += [_clone_padding_request(requests[-1])] * padding
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


def test_padding_of_other_processes_is_not_asked(model, monkeypatch):
    """lmms-eval repeats a rank's last request until all ranks have equally many."""
    before = model._tally.images
    conversations = [image_and("Is there a bird?"), image_and("Is there a cat?")]
    alone = ask(model, conversations)
    assert model._tally.images == before + 2
    assert ask(model, conversations, padding=2) == [*alone, alone[1], alone[1]]
    assert model._tally.images == before + 4


@pytest.mark.parametrize(
    ("text", "stops", "left"),
    [
        ("yes\nno", ["\n"], "yes"),
        ("yes", None, "yes"),
        ("one\n\ntwo", ["\n\n"], "one\n\ntwo"),  # lmms-eval's own stop of every task
        ("<think>\na\nb\n</think>\n\nyes\nno", ["\n"], "<think>\na\nb\n</think>yes"),
        ("a\n</think>\nyes. no", ".", "a\n</think>yes"),  # a template may open the block itself
    ],
)
def test_stops_count_behind_thoughts(text, stops, left):
    assert _until(text, {"until": stops}) == left


def test_downsample_shrinks_before_a_processor_with_a_pixel_range(monkeypatch):
    """Nothing is pruned; 100 x 60 pixels become as many as 16 tokens of 8 x 8 have: 41.3 x 24.8."""
    ranges = []
    monkeypatch.setattr("gridprune.lmms.model.pixels_of_a_token", lambda processor: 8 * 8)
    monkeypatch.setattr("gridprune.lmms.model.set_pixel_range", lambda processor, *given: ranges.append(given))
    shown = get_model("gridprune").create_from_arg_string("method=downsample,keep=16", {"device": "cpu"})
    (image,) = shown._images(ChatMessages(messages=image_and("Is there a bird?")))
    assert image.size == (41, 25)
    assert shown._prune is None
    assert ranges[-1] == (64, None), "what was shrunk must not be enlarged to the processor's own minimum"


def test_tasks_of_the_recipes_exist_with_their_metrics():
    """Read from lmms-eval's own task files; no data is fetched."""
    manager = TaskManager()
    recipe = (Path(__file__).parents[2] / "recipes" / "run.sh").read_text()
    named = {task for line in re.findall(r"^tasks\+?=,?(\S+)", recipe, re.M) for task in line.split(",")}
    assert {retention.group_of(task) for task in named} == {"VQA", "text-dense", "grounding"}
    assert named <= set(retention.SCORES)
    for task, wanted in retention.SCORES.items():
        if task in GROUPS:
            continue
        file = manager.task_index[task]["yaml_path"]
        listed = {metric["metric"] for metric in load_yaml_config(file, mode="simple")["metric_list"]}
        assert set(wanted) <= listed, task


@pytest.mark.slow
def test_two_processes_answer_what_one_does(tmp_path):
    """The command line itself, data-parallel; torch starts the processes, for accelerate starts one alone on CPUs.

    The script is lmms-eval's own module, less the indexing of all its tasks.
    """
    script = tmp_path / "run.py"
    script.write_text(TWO_PROCESSES)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    done = subprocess.run(
        [sys.executable, *launch, str(TASKS), str(tmp_path / "found.json")], check=True, capture_output=True, text=True
    )
    assert re.search(r"answering: 100%.* 5/5 ", done.stderr), "the first process has five of nine documents"
    found = json.loads((tmp_path / "found.json").read_text())
    alone = lmms_eval("method=fastervlm,keep=64", task="gridprune_vqa", limit=9)
    given = {sample["doc_id"]: sample["filtered_resps"][0] for sample in alone["samples"]["gridprune_vqa"]}
    assert found["answers"] == {str(number): answer for number, answer in given.items()}
    assert found["documents"] == 9
    assert found["accuracy"] == alone["results"]["gridprune_vqa"]["accuracy,none"]
    together, single = found["throughput"], alone["throughput"]
    assert together["avg_images"] == single["avg_images"] == 9, "of both, and none twice"
    assert together["total_gen_tokens"] == single["total_gen_tokens"]
    assert together["avg_visual_tokens_kept"] == single["avg_visual_tokens_kept"] == 64


TWO_PROCESSES = """
import json, os, sys
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager

manager = TaskManager(include_path=sys.argv[1], include_defaults=False, model_name="gridprune")
found = simple_evaluate(
    model="gridprune", model_args="method=fastervlm,keep=64", tasks=["gridprune_vqa"], task_manager=manager, limit=9,
    device="cpu", bootstrap_iters=0, log_samples=True, distributed_executor_backend="torchrun",
)
if os.environ["RANK"] == "0":
    samples = found["samples"]["gridprune_vqa"]
    kept = {
        "answers": {sample["doc_id"]: sample["filtered_resps"][0] for sample in samples},
        "documents": found["n-samples"]["gridprune_vqa"]["effective"],
        "accuracy": found["results"]["gridprune_vqa"]["accuracy,none"],
        "throughput": found["throughput"],
    }
    with open(sys.argv[2], "w") as file:
        json.dump(kept, file)
"""
