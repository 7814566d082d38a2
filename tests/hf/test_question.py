"""The question that guides a call, read from prompts of every structure of chat template."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers as hf
from PIL import Image

from gridprune.cues.question import QuestionReader, clean, strip_format
from gridprune.errors import QuestionError

from .chats import CHATS, SHARED, WITH_SYSTEM, WITH_TOOLS, processor, tokenizer

WORDS = (  # what users write that looks like a template's own
    "What does ASSISTANT: mean?",
    "What does [/INST] end, and USER: begin?",
    "Is <b>this</b> bold?",
    "Is it the ###Assistant: or the User: line?",
    "Which is it?\nA. a cat\nB. a dog",
    "What comes behind the blank line?\n\nA. text\n\nB. nothing",
)


def turn(role, text, images=0, behind=False):
    shown = [{"type": "image"}] * images
    parts = [{"type": "text", "text": text}] if text else []
    return {"role": role, "content": [*parts, *shown] if behind else [*shown, *parts]}


def user(text, images=0, **options):
    return turn("user", text, images, **options)


def assistant(text):
    return turn("assistant", text)


def system(text):
    return turn("system", text)


def rendered(name, turns, **options):
    return processor(name).apply_chat_template(turns, add_generation_prompt=True, tokenize=False, **options)


def read(name, *texts, guide="last", placeholders=3):
    """Questions of a left-padded batch of prompts, every image standing for several placeholders."""
    image = tokenizer().convert_tokens_to_ids("<image>")
    rows = [tokenizer()(text, add_special_tokens=False)["input_ids"] for text in texts]
    rows = [[token for token in row for _ in range(placeholders if token == image else 1)] for row in rows]
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    images = []
    for number, row in enumerate(ids):
        runs = (row == image).nonzero()[:, 0].split(placeholders)
        images += [(number, run) for run in runs if len(run)]
    return QuestionReader(processor(name)).read(ids, images, guide=guide)


def asked(name, *turns, processed=True, guide="last", **options):
    """Questions of one conversation, its images written out as the processor would."""
    text = rendered(name, turns, **options)
    if name == "gemma":
        text = text.replace("<start_of_image>", processor(name).full_image_sequence if processed else "<image>")
    return read(name, text, guide=guide)


each_chat = pytest.mark.parametrize("chat", CHATS)


@each_chat
def test_one_turn(chat):
    assert asked(chat, user("What is red?", 1)) == ["What is red?"]
    assert asked(chat, user("What is red?", 1, behind=True)) == ["What is red?"]


@each_chat
@pytest.mark.parametrize("words", WORDS)
def test_role_markers_and_blank_lines_in_a_users_words_are_words(chat, words):
    expected = [" ".join(words.split())]
    assert asked(chat, user(words, 1)) == expected
    assert asked(chat, user("And?", 1), assistant("A ball."), user(words)) == expected


@each_chat
def test_a_conversation_sent_again_is_guided_by_its_last_question(chat):
    turns = [user("What is red?", 1), assistant("The ball is."), user("And blue?", 1), assistant("None."), user("Why?")]
    assert asked(chat, *turns) == ["Why?", "Why?"]
    assert asked(chat, *turns[:3]) == ["And blue?", "And blue?"]


@each_chat
def test_guided_by_the_turn_a_question_stays_what_it_was_when_the_image_came(chat):
    turns = [user("What is red?", 1), assistant("The ball is."), user("And blue?", 1), assistant("None."), user("Why?")]
    assert asked(chat, *turns, guide="turn") == ["What is red?", "And blue?"]
    shown = [user("What is red?"), assistant("Show it."), user("", 1), assistant("The ball."), user("Why?")]
    assert [asked(chat, *shown[:n], guide="turn") for n in (3, 5)] == [["What is red?"]] * 2


@each_chat
def test_several_images_of_one_turn(chat):
    assert asked(chat, user("What differs?", 2)) == ["What differs?"] * 2


@each_chat
def test_batch(chat):
    texts = [rendered(chat, [user(words, 1)]).replace("<start_of_image>", "<image>") for words in ("One?", "A longer?")]
    assert read(chat, *texts) == ["One?", "A longer?"]


@each_chat
def test_an_image_without_words_takes_the_last_question_that_was_asked(chat):
    assert asked(chat, user("", 1), assistant("I see."), user("What is red?")) == ["What is red?"]
    assert asked(chat, user("What is red?"), assistant("Show it."), user("", 1)) == ["What is red?"]


@each_chat
def test_a_prompt_without_words_asks_nothing(chat):
    assert asked(chat, user("", 1)) == [""]


@pytest.mark.parametrize("chat", WITH_TOOLS)
def test_images_of_a_tool_are_guided_by_the_users_question(chat):
    tool = turn("tool", "Found one.", 1)
    assert asked(chat, user("What is red?"), assistant("I look."), tool) == ["What is red?"]
    again = [user("What is red?", 1), assistant("A."), user("And blue?"), assistant("I look."), tool]
    assert asked(chat, *again) == ["And blue?"] * 2


@pytest.mark.parametrize("chat", WITH_SYSTEM)
def test_system_text_is_no_part_of_the_question(chat):
    told = system("Be brief, and kind.")
    assert asked(chat, told, user("Name what is red.", 1)) == ["Name what is red."]
    assert asked(chat, told, user("What is red?", 1, behind=True)) == ["What is red?"]
    later = [user("What is red?", 1), assistant("A ball."), user("And blue?")]
    assert asked(chat, told, *later) == ["And blue?"]


@pytest.mark.parametrize("chat", SHARED)
def test_system_text_of_several_paragraphs_in_front_of_a_question_of_several(chat):
    told = system("Be brief.\n\nYou are an expert for signs.")
    assert asked(chat, told, user("Look well.\n\nWhat is red?\n\nA. sky", 1)) == ["Look well. What is red? A. sky"]


@pytest.mark.parametrize("chat", ["gemma", "pixtral"])
def test_without_an_image_to_go_by_only_what_asks_is_kept_behind_a_blank_line(chat):
    """System text and a user's own first paragraph are written alike: the part with the question stays."""
    assert asked(chat, user("This is Tom.\n\nWhat breed is he?", 1, behind=True)) == ["What breed is he?"]
    kept = "Which is it?\n\nA. a cat\n\nB. a dog"
    assert asked(chat, user(kept, 1, behind=True)) == [" ".join(kept.split())]
    assert asked(chat, user("Describe it.\n\nBegin on the left.", 1, behind=True)) == [
        "Describe it. Begin on the left."
    ]


@pytest.mark.parametrize("processed", [True, False])
def test_gemmas_line_breaks_around_images_are_not_taken_for_system_text(processed):
    words = [{"type": "text", "text": "Is the sign here:"}, {"type": "image"}, {"type": "text", "text": "like here?"}]
    turns = [{"role": "user", "content": [*words, {"type": "image"}]}]
    assert asked("gemma", *turns, processed=processed) == ["Is the sign here: like here?"] * 2


def test_text_between_the_pieces_of_gemmas_pan_and_scan_is_not_asked():
    one = processor("gemma").full_image_sequence
    scanned = f"Here is the original image {one} and here are some crops to help you see better {one} {one}"
    for told in ([], [system("Be brief.")]):
        text = rendered("gemma", [*told, user("What is red?", 1)]).replace("<start_of_image>", scanned)
        assert read("gemma", text) == ["What is red?"] * 3


@pytest.mark.parametrize("scan", [False, True])
def test_prompts_of_the_stock_gemma_processor(scan):
    """What it writes around images and crops is its own; the words between are the user's."""
    pil = pytest.importorskip("transformers.models.gemma3.image_processing_pil_gemma3")
    words = copy.deepcopy(tokenizer())
    for name, token in {"boi": "<start_of_image>", "eoi": "<end_of_image>", "image": "<image>"}.items():
        setattr(words, f"{name}_token", token)
        setattr(words, f"{name}_token_id", words.convert_tokens_to_ids(token))
    images = pil.Gemma3ImageProcessorPil(size={"height": 28, "width": 28})
    crops = {"pan_and_scan_min_crop_size": 16}  # the smallest side of a crop
    stock = hf.Gemma3Processor(images, words, chat_template=CHATS["gemma"], image_seq_length=4)
    between = [{"type": "text", "text": "Is this"}, {"type": "image"}, {"type": "text", "text": "like\n\na ball?"}]
    for turns, expected in (
        ([user("What is red?", 1)], "What is red?"),
        ([system("Be kind.\n\nBe brief."), user("Name it.\n\nThen stop.", 1)], "Name it. Then stop."),
        ([{"role": "user", "content": between}], "Is this like a ball?"),
    ):
        text = stock.apply_chat_template(turns, add_generation_prompt=True)
        given = {"text": text, "add_special_tokens": False, "images_kwargs": {"do_pan_and_scan": scan, **crops}}
        ids = stock(images=Image.new("RGB", (300, 60)), return_tensors="pt", **given)
        runs = (ids["input_ids"][0] == words.image_token_id).nonzero()[:, 0].split(4)
        assert len(runs) == (5 if scan else 1)
        assert set(QuestionReader(stock).read(ids["input_ids"], [(0, run) for run in runs])) == {expected}


def test_numbers_that_a_template_gives_images_are_not_asked():
    turns = [user("What is red?", 2), assistant("A ball."), user("And here?", 1)]
    assert asked("qwen", *turns, add_vision_id=True) == ["And here?"] * 3
    assert asked("qwen", *turns[:1], add_vision_id=True) == ["What is red?"] * 2


def test_text_in_front_of_a_videos_frames_is_not_asked():
    intro = "You are provided the following series of two frames from a 0:00:02 [H:MM:SS] video.\n\n"
    frame = "<fake_token_around_image><global-img><image><fake_token_around_image>"
    smolvlm = f"{intro}Frame from 00:00:{frame}\nFrame from 00:01:{frame}\n\n"
    written = {
        "idefics": smolvlm,
        "chatml": "Frame1: <img><image></img>\nFrame2: <img><image></img>\n",
        "qwen": "<0.6 seconds><|vision_start|><image><|vision_end|><1.8 seconds><|vision_start|><image><|vision_end|>",
    }
    clip = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Who falls at <0.6 seconds>?"}]}]
    for chat, frames in written.items():
        text = rendered("qwen" if chat == "chatml" else chat, clip).replace("<video>", frames)
        assert read(chat, text) == ["Who falls at <0.6 seconds>?"] * 2, chat


@each_chat
def test_a_prompt_that_ends_in_the_beginning_of_an_answer(chat):
    text = rendered(chat, [user("What is red?", 1)]).replace("<start_of_image>", "<image>")
    assert read(chat, text + " The red one is") == ["What is red?"]


@pytest.mark.parametrize("chat", ["qwen", "llama3", "gemma", "glm"])
def test_two_user_turns_in_a_row(chat):
    assert asked(chat, user("Look at this.", 1), user("What is red?")) == ["What is red?"]


def test_batch_rows_of_which_one_has_no_image():
    texts = [rendered("llava", [user("One?")]), rendered("llava", [user("Two?", 1)])]
    assert read("llava", *texts) == ["Two?"]


@each_chat
def test_answer_format_is_no_part_of_the_question(chat):
    words = "What is red?\nA. a ball\nB. a hat\nAnswer with the option's letter from the given choices directly."
    assert asked(chat, user(words, 1)) == ["What is red? A. a ball B. a hat"]


@pytest.mark.parametrize(
    "text",
    [
        "USER: <image>\nWhat is red? ASSISTANT:",
        "A chat. USER: <image>\nWhat is red? ASSISTANT:",
        "USER: <image>\nIs it? ASSISTANT: No.</s>USER: What is red? ASSISTANT:",
        "[INST] <image>\nWhat is red? [/INST]",
        "<|im_start|>user\n<image>What is red?<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>user\n<image>Is it?<|im_end|>\n<|im_start|>user\nWhat is red?<|im_end|>\n<|im_start|>assistant\n",
        "<image>What is red?",
    ],
)
@pytest.mark.parametrize("chat", [None, "llava", "qwen"])
def test_prompts_written_by_hand(chat, text):
    assert read(chat, text) == ["What is red?"]


def test_white_space_is_cleaned():
    assert clean("  What\n is   red? ") == "What is red?"


def test_template_is_learned_once():
    made, calls = processor("vicuna"), []
    inner = made.apply_chat_template
    made.apply_chat_template = lambda *a, **k: calls.append(1) or inner(*a, **k)
    reader = QuestionReader(made)
    first, count = reader.templates, len(calls)
    assert reader.templates is first
    assert len(calls) == count


def test_error_is_typed():
    assert issubclass(QuestionError, ValueError)


# -- instructions about the form of the answer ----------------------------------------------------------------------

ASKED = ("What is on the left?", "Which is it?\nA. a cat\nB. a dog", "Name the color of the car")


@pytest.mark.parametrize(
    "instruction",
    [
        "Answer the question using a single word or phrase.",
        "Answer with a single number.",
        "Answer with True or False only.",
        "Answer briefly.",
        "Please answer yes or no.",
        "Please answer directly with only the letter of the correct option and nothing else.",
        "Respond with only the option letter: A, B, C, or D.",
        "Only give the best option.\nBest option: (",
        "Please select the correct answer from the options above.",
        "Choose the correct option and write only its letter.",
        'Return only a JSON array of every applicable option ID, for example ["A","C"].',
        "Give only the final answer, with no explanation.",
        "Keep the answer short and concise.",
        "Your response must be concise.",
        "Do not explain your answer.",
        "Let's think step by step.",
        "Think step by step and give your final answer in \\boxed{Answer} format.",
        "Think carefully. The last line of your response should be 'Answer: X'.",
        "When the provided information is insufficient, respond with 'Unanswerable'.",
        'If none of the options is right, answer "F. None of the above".',
        "Based on what you see, answer with the option's letter.\nAnswer:",
        "The best answer is:",
        "Provide a one-sentence caption for the provided image.",
        "请用一个词或短语回答问题。",
        "選択肢の記号で直接答えてください。",
        "선택지의 문자로 바로 답하세요.",
        "Ответь одним словом.",
        "Antworte mit einem Wort.",
        "Réponds par une seule lettre.",
        "Responde con una sola palabra.",
    ],
)
@pytest.mark.parametrize("question", ASKED)
def test_instructions_about_the_answer_are_taken_off(question, instruction):
    assert strip_format(f"{question}\n{instruction}") == question
    assert strip_format(instruction) != ""


@pytest.mark.parametrize(
    "question",
    [
        "Look at the sign. Write the letter on it.",
        "Look at the bus. Give the number above the door.",
        "Here is the menu. Give the options for dessert.",
        "Here are two boxes. Choose the red one.",
        "This is my desk. What is the answer in line 2?",
        "Which option is right?\nA. answer with a word\nB. none",
        "Look at it. Is the answer to the exercise right or wrong?",
        "Read the code. Give the output.",
        "She holds a photo. Write down the caption under it.",
        "What does the button say?\nOptions:\nA. Answer: yes\nB. Reply",
    ],
)
def test_what_is_asked_and_what_may_be_chosen_stays(question):
    assert strip_format(question) == question
