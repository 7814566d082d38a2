"""Trainers as they are, with a pruned model: their losses and metrics are those of the kept tokens written out."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import Trainer, TrainingArguments
from transformers.trainer_pt_utils import LabelSmoother

from gridprune import prune
from gridprune.compat import CACHE
from gridprune.errors import UnsupportedCallError
from gridprune.methods.registry import create
from gridprune.tiny.loading import load

from .kit import in_full, model, reference, write
from .models import LLAVA, QWEN2_5_VL
from .test_contract import one

with pytest.MonkeyPatch.context() as patch:  # TRL takes the folder tests/vllm for a broken vLLM
    patch.setattr(sys, "path", [folder for folder in sys.path if Path(folder) != Path(__file__).parents[1]])
    from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

SOME = create("random", keep="30%", seed=1)
QUIET = {"report_to": "none", "use_cpu": True, "save_strategy": "no", "disable_tqdm": True, "learning_rate": 0.0}
QUIET |= {"logging_steps": 1, "max_steps": 1, "dataloader_pin_memory": False}
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*return_outputs:FutureWarning"),
]

# -- transformers ------------------------------------------------------------------------------------------------------


def rows_of(case, masked):
    """Four rows of two lengths, with labels; of visual tokens as well unless masked."""
    rows = [one(case, number) for number in range(4)]
    calls = [case.call(row) for row in rows]
    for call in calls:
        labels = call["input_ids"].clone()
        call["labels"] = labels.masked_fill(labels == case.placeholder, -100) if masked else labels
    return rows, calls


def trainer(net, calls, folder, **settings):
    def together(batch):
        return {name: torch.cat([each[name] for each in batch]) for name in batch[0]}

    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return len(calls)

        def __getitem__(self, number):
            return calls[number]

    metrics = settings.pop("compute_metrics", None)
    arguments = TrainingArguments(folder, **{**QUIET, "remove_unused_columns": False, **settings})
    return Trainer(
        net, arguments, data_collator=together, train_dataset=Rows(), eval_dataset=Rows(), compute_metrics=metrics
    )


def reports_of(net, calls):
    with torch.no_grad(), prune(net, SOME) as pruning:
        for call in calls:
            net(**call)
    return [report.kept_mask for report in pruning.reports]


@pytest.mark.parametrize("case", [LLAVA, QWEN2_5_VL], ids=lambda case: case.name)
def test_the_loss_is_divided_by_the_labels_that_are_left(case, tmp_path):
    net = copy.deepcopy(model(case))
    rows, calls = rows_of(case, masked=False)
    rows, calls = rows[:1] * 4, calls[:1] * 4
    mask = reports_of(net, calls[:1])
    run = trainer(net, calls, tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    with prune(net, SOME):
        run.train()
    kept = calls[0]["input_ids"][:, write(case, net, rows[0], mask).columns]
    expected = float(reference(case, net, rows[0], mask, labels=kept).loss)
    assert run.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-4)


def test_label_smoothing(tmp_path):
    net = copy.deepcopy(model(LLAVA))
    rows, calls = rows_of(LLAVA, masked=True)
    masks = reports_of(net, calls)
    run = trainer(net, calls, tmp_path, per_device_train_batch_size=4, label_smoothing_factor=0.2)
    with prune(net, SOME):
        run.train()
    logits, labels = [], []
    for row, call, mask in zip(rows, calls, masks):
        logits.append(reference(LLAVA, net, row, [mask]).logits)
        labels.append(call["labels"][:, write(LLAVA, net, row, [mask]).columns])
    count = sum(int((each[:, 1:] != -100).sum()) for each in labels)
    # As Trainer has it, labels of models that are not in its list of causal ones are not shifted, but counted so.
    expected = LabelSmoother(0.2)({"logits": torch.cat(logits)}, torch.cat(labels), num_items_in_batch=count)
    assert run.state.log_history[0]["loss"] == pytest.approx(float(expected), rel=1e-4)


def test_metrics_get_logits_beside_the_labels(tmp_path):
    net = copy.deepcopy(model(LLAVA))
    rows, calls = rows_of(LLAVA, masked=True)
    masks = reports_of(net, calls)
    given = []

    def metrics(prediction):
        given.append(prediction)
        return {"seen": 1}

    run = trainer(net, calls, tmp_path, per_device_eval_batch_size=2, compute_metrics=metrics)
    with prune(net, SOME):
        run.evaluate(ignore_keys=[CACHE])
    logits, labels = given[0].predictions, torch.as_tensor(given[0].label_ids)
    logits = torch.as_tensor(logits[0] if isinstance(logits, tuple) else logits)
    assert torch.equal(labels, torch.cat([call["labels"] for call in calls]))
    for i, (row, mask) in enumerate(zip(rows, masks)):
        expected = in_full(LLAVA, net, row, [mask], reference(LLAVA, net, row, [mask]).logits)[0]
        torch.testing.assert_close(logits[i], expected, atol=2e-4, rtol=1e-4)


# -- TRL, on the embedded model ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny():
    return load()


class Scored:
    """What TRL's head scored in each call, and which visual tokens were kept in it."""

    def __init__(self, net, pruning):
        self.calls = []
        self._pruning = pruning
        self._handle = net.register_forward_hook(self._note, with_kwargs=True)

    def _note(self, module, args, kwargs, output):
        if kwargs.get("fused_lm_head"):
            masks = [report.kept_mask for report in self._pruning.reports][-len(kwargs["input_ids"]) :]
            self.calls.append((kwargs, output.log_probs.detach(), masks))

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._handle.remove()


@torch.no_grad()
def log_probs(net, kwargs, masks, row, temperature=1.0):
    """Of the labels of one row, from its kept tokens written out."""
    ids, labels = kwargs["input_ids"][row], kwargs["labels"][row]
    embeddings = net.get_input_embeddings()(ids).clone()
    visual = (ids == net.config.image_token_id).nonzero()[:, 0]
    embeddings[visual] = net.get_image_features(kwargs["pixel_values"][row : row + 1], return_dict=True).pooler_output[
        0
    ]
    stays = kwargs["attention_mask"][row].bool()
    stays[visual] = masks[row]
    logits = net(inputs_embeds=embeddings[stays][None]).logits[0, :-1] / temperature
    following = labels[stays][1:]
    scores = logits.log_softmax(-1).gather(1, following.clamp(min=0)[:, None])[:, 0]
    return scores[following != -100]


def check(net, scored, temperature=1.0):
    found = []
    for kwargs, given, masks in scored.calls:
        for row in range(len(given)):
            expected = log_probs(net, kwargs, masks, row, temperature)
            torch.testing.assert_close(given[row][kwargs["labels"][row, 1:] != -100], expected, atol=1e-3, rtol=1e-3)
            found.append(expected)
    return found


def image(number):
    return Image.new("RGB", (100, 80), (40 * number, 90, 200))


QUESTIONS = ["what color is the ball?", "how many dogs are there in the picture?"]


def user(question):
    return {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}


def assistant(answer):
    return {"role": "assistant", "content": [{"type": "text", "text": answer}]}


def sft(tiny, folder, rows, **arguments):
    settings = {"per_device_train_batch_size": 2, "max_length": None, "gradient_checkpointing": False, "bf16": False}
    return SFTTrainer(
        copy.deepcopy(tiny.model),
        args=SFTConfig(folder, **QUIET, **settings),
        train_dataset=Dataset.from_list(rows),
        processing_class=tiny.processor,
        **arguments,
    )


def test_sft_on_completions(tiny, tmp_path):
    answers = ["red red red", "two"]
    rows = [
        {"images": [image(i)], "prompt": [user(q)], "completion": [assistant(a)]}
        for i, (q, a) in enumerate(zip(QUESTIONS, answers))
    ]
    run = sft(tiny, tmp_path, rows)
    with prune(run.model, create("random", keep=60)) as pruning, Scored(run.model, pruning) as scored:
        run.train()
    found = torch.cat(check(run.model, scored))
    assert run.state.log_history[0]["loss"] == pytest.approx(-float(found.mean()), rel=1e-3)


def test_sft_on_whole_conversations_needs_labels_of_text_only(tiny, tmp_path):
    class TextOnly(DataCollatorForVisionLanguageModeling):
        def torch_call(self, examples):
            batch = super().torch_call(examples)
            batch["labels"][batch["input_ids"] == tiny.model.config.image_token_id] = -100
            return batch

    rows = [{"images": [image(i)], "messages": [user(q), assistant("two")]} for i, q in enumerate(QUESTIONS)]
    refused = sft(tiny, tmp_path, rows)
    with pytest.raises(UnsupportedCallError, match="-100"), prune(refused.model, create("random", keep=60)):
        refused.train()
    run = sft(tiny, tmp_path, rows, data_collator=TextOnly(tiny.processor))
    with prune(run.model, create("random", keep=60)) as pruning, Scored(run.model, pruning) as scored:
        run.train()
    found = torch.cat(check(run.model, scored))
    assert run.state.log_history[0]["loss"] == pytest.approx(-float(found.mean()), rel=1e-3)


def test_grpo(tiny, tmp_path):
    """Prompts are padded on the left, completions on the right: the log-probabilities are those of the completions."""
    settings = {"num_generations": 2, "max_completion_length": 6, "temperature": 4.0, "bf16": False}
    settings |= {"per_device_train_batch_size": 4, "gradient_checkpointing": False}
    run = GRPOTrainer(
        copy.deepcopy(tiny.model),
        lambda completions, **columns: [float(len(str(each))) for each in completions],
        args=GRPOConfig(tmp_path, **QUIET, **settings),
        train_dataset=Dataset.from_list(
            [{"image": image(i), "prompt": [{"role": "user", "content": q}]} for i, q in enumerate(QUESTIONS)]
        ),
        processing_class=tiny.processor,
    )
    with prune(run.model, create("random", keep=60)) as pruning, Scored(run.model, pruning) as scored:
        run.train()
    found = check(run.model, scored, temperature=4.0)
    assert len({len(each) for each in found}) > 1
    mask = scored.calls[0][0]["attention_mask"]
    assert not bool(mask[:, 0].all())
    assert not bool(mask[:, -1].all())
