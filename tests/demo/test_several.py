"""Several images, or a video, in one question: answers are the stock model's, and each image has its own map."""

from __future__ import annotations

import contextlib
import io
import json

import pytest
import torch
from PIL import Image

from gridprune.demo.choice import Choice
from gridprune.demo.engine import Engine
from gridprune.demo.export import as_python, save
from gridprune.demo.limits import MAX_IMAGES, MAX_SIDE, MAX_VIDEO, Inbox, read_video_upload
from gridprune.demo.samples import samples
from gridprune.demo.session import Conversation, Session
from gridprune.demo.view import maps_html, views_html
from gridprune.errors import ImageError
from gridprune.runtime import find_keep
from gridprune.tiny.scenes import make_scene

from .videos import COUNT, PER_FRAME, SIZE, video_loaded, write_video

QUESTION = "Where is the tree?"


@pytest.fixture(scope="module")
def engine(loaded) -> Engine:
    return Engine(loaded)


@pytest.fixture
def asked(engine) -> Session:
    session = Session(samples())
    session.select(3)
    session.ask(engine, QUESTION, Choice(keep=64), False)
    return session


@torch.no_grad()
def stock_answer(loaded, images, question, kept=None):
    """Written token by token: the words of the embedded model's template, and of its own features those of `kept`."""
    inputs = loaded.processor(text=f"{'<image>' * len(images)}{question}<ans>", images=images, return_tensors="pt")
    model, ids = loaded.model, inputs["input_ids"][0]
    features = model.model.get_image_features(inputs["pixel_values"], return_dict=True).pooler_output
    table = model.get_input_embeddings()
    rows, place = [], 0
    for token in ids:
        if int(token) != model.config.image_token_id:
            rows.append(table(token))
            continue
        number, index = divmod(place, 576)
        if kept is None or index in kept[number]:
            rows.append(features[number][index])
        place += 1
    assert place == 576 * len(images)
    output = model.generate(inputs_embeds=torch.stack(rows)[None], max_new_tokens=64, do_sample=False)
    return loaded.processor.batch_decode(output, skip_special_tokens=True)[0].strip()


@pytest.mark.parametrize("pair", [(17, 9), (5, 2), (3, 7)])
def test_answers_are_those_of_the_stock_model(engine, loaded, pair):
    images = [make_scene("dev", index).image for index in pair]
    session = Session([Conversation(["one", "two"], images)])
    session.ask(engine, QUESTION, Choice(keep=64, compare="random"), False)
    turn = session.conversation.turn
    assert turn.columns[0].text == stock_answer(loaded, images, QUESTION)
    for column in turn.columns[1:]:
        kept = [set(report.kept_indices.tolist()) for report in column.answer.reports]
        assert [len(each) for each in kept] == [64, 64]  # the budget is that of each image
        assert column.text == stock_answer(loaded, images, QUESTION, kept)
        assert column.answer.visual_tokens == 128
    assert [seen.image.size for seen in turn.seen] == [image.size for image in images]
    assert turn.totals == [576, 576]


def test_each_image_has_its_own_map(engine, asked):
    conversation, turn = asked.conversation, asked.conversation.turn
    html, chosen = maps_html(conversation, turn), views_html(conversation, turn)
    assert html.count("<section") == chosen.count('type="radio"') == 2
    assert html.count("64 of 576 kept") == 2
    first, second = (part.split("</section>")[0] for part in html.split("<section")[1:])
    told = [json.loads(part.split('data-patches="')[1].split('"')[0].replace("&#34;", '"')) for part in (first, second)]
    for patches, report in zip(told, turn.columns[1].answer.reports, strict=True):
        assert [n for n, kept in enumerate(patches["kept"]) if kept] == report.kept_indices.tolist()
    assert told[0]["kept"] != told[1]["kept"]
    asked.select(0)
    asked.ask(engine, QUESTION, Choice(keep=64), False)
    assert "radio" not in views_html(asked.conversation, asked.conversation.turn)  # one image has nothing to choose


@pytest.mark.parametrize("own", [False, True])
def test_copied_python_gives_the_same_answer(engine, asked, own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if own:
        images = [make_scene("dev", index).image for index in (5, 2)]
        asked.add(Conversation(["a.png", "b.png"], images))
        for name, image in zip(("a.png", "b.png"), images, strict=True):
            image.save(name)
        asked.ask(engine, QUESTION, Choice(keep=48), False)
    code, printed = as_python(engine, asked.conversation, asked.conversation.turn), io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "copied.py", "exec"), {})
    assert printed.getvalue().strip() == asked.conversation.turn.columns[1].text
    assert sorted(path.name for path in tmp_path.glob("kept*")) == ["kept-1.png", "kept-2.png"]


def test_downloads_hold_all_images(engine, asked):
    told = json.loads(save(engine, asked.conversation, "json")[0])
    assert told["image"] == "Stop, Clouds"
    assert told["visual_tokens"] == 1152
    (further,) = told["answers"][1]["further_images"]
    reports = asked.conversation.turn.columns[1].answer.reports
    assert [told["answers"][1]["kept_indices"], further["kept_indices"]] == [r.kept_indices.tolist() for r in reports]
    both = Image.open(io.BytesIO(save(engine, asked.conversation, "png")[0]))
    asked.select(0)
    asked.ask(engine, QUESTION, Choice(keep=64), False)
    one = Image.open(io.BytesIO(save(engine, asked.conversation, "png")[0]))
    assert both.size == (one.width, 2 * one.height)


def test_the_smallest_k_is_one_for_each_image(engine, loaded, asked):
    found = asked.smallest(engine, Choice(keep=64))
    assert found == find_keep(loaded, asked.conversation.images, QUESTION)
    assert found.total == 576
    asked.again(engine, Choice(keep=found.smallest))
    full, kept = asked.conversation.turn.columns
    assert kept.text == full.text
    assert kept.answer.visual_tokens == 2 * found.smallest


def test_what_a_visitor_and_the_inbox_hold_is_counted_in_images():
    session, image = Session(samples()), make_scene("dev", 0).image
    for number in range(3):
        session.add(Conversation(list("abc"), [image] * 3))
        session.conversation.names = [f"{number}"] * 3
    assert [each.names[0] for each in session.conversations if not each.sources] == ["1", "2"]
    inbox = Inbox()
    first = inbox.put("first", [image] * MAX_IMAGES)
    others = [inbox.put("more", [image] * MAX_IMAGES) for _ in range(4)]
    assert inbox.take(first) is None
    assert all(inbox.take(ticket) for ticket in others)


# -- videos ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    pytest.importorskip("av", reason="videos need gridprune[video]")
    return read_video_upload(write_video(tmp_path_factory.mktemp("videos") / "video.mp4").read_bytes())


def test_a_video_is_asked_about_frame_by_frame(video):
    loaded = video_loaded()
    engine = Engine(loaded)
    assert engine.no_video == ""
    session = Session([Conversation(["video.mp4"], video)])
    session.ask(engine, "What is red?", Choice(keep=60), False)
    turn = session.conversation.turn
    assert turn.totals == [PER_FRAME * len(video.frames)]
    inputs = loaded.processor(session_prompt(loaded), videos=[video.frames])
    stock = loaded.model.generate(**inputs, max_new_tokens=64, do_sample=False)
    assert turn.columns[0].text == loaded.processor.batch_decode(stock[:, inputs["input_ids"].shape[1] :])[0]
    (report,) = turn.columns[1].answer.reports
    html = maps_html(session.conversation, turn)
    frames = report.token_map.candidates.frame[report.kept_indices]
    assert html.count("<section") == MAX_IMAGES
    for frame in range(MAX_IMAGES):
        assert f"{int((frames == frame).sum())} of {PER_FRAME} kept" in html.split("<section")[frame + 1]
    means = [sum(seen.image.convert("L").histogram()[n] * n for n in range(256)) for seen in turn.seen]
    assert means == sorted(means)  # each frame is brighter than the one before it
    assert "read_video('video.mp4', 8)" in as_python(engine, session.conversation, turn)
    assert save(engine, session.conversation, "png")[0].startswith(b"\x89PNG")


def session_prompt(loaded):
    """The question about a video as the tests' template writes it."""
    content = [{"type": "video"}, {"type": "text", "text": "What is red?"}]
    return loaded.processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "mpeg4"), ("a.webm", "libvpx-vp9")])
def test_frames_are_spread_over_the_video(name, codec, tmp_path):
    pytest.importorskip("av", reason="videos need gridprune[video]")
    found = read_video_upload(write_video(tmp_path / name, codec).read_bytes())
    assert (found.total, found.rate) == (COUNT, 10.0)
    assert list(found.indices) == [1, 3, 6, 8, 11, 13, 16, 18]
    for frame, index in zip(found.frames, found.indices, strict=True):
        assert frame.size == (SIZE, SIZE)
        assert abs(frame.getpixel((20, 20))[0] - 10 * index) < 6  # what the codec loses


def test_videos_that_are_refused(tmp_path):
    pytest.importorskip("av", reason="videos need gridprune[video]")
    small = write_video(tmp_path / "small.mp4").read_bytes()
    refused = {
        "Give MP4 or WebM": write_video(tmp_path / "other.avi").read_bytes(),
        "is written in mjpeg": write_video(tmp_path / "other.mp4", "mjpeg").read_bytes(),
        "at most 1,800 frames in 60 seconds": write_video(tmp_path / "long.mp4", count=601, side=16).read_bytes(),
        "at most 2,100,000 pixels": write_video(tmp_path / "wide.mp4", count=1, side=MAX_SIDE).read_bytes(),
        "at most 50,000,000 are read": bytes(MAX_VIDEO.size + 1),
        "The file": small[:300],
    }
    for words, data in refused.items():
        with pytest.raises(ImageError, match=words):
            read_video_upload(data)


def test_the_embedded_model_says_that_it_takes_images_only(engine):
    assert "images only" in engine.no_video
