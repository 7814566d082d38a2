"""Videos from files: even sampling by PyAV, answers of families with videos, and what is said when it cannot work."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BatchFeature
from typer.testing import CliRunner

from gridprune import GridPrune
from gridprune.cli.main import app
from gridprune.core.token_map import TokenMap
from gridprune.errors import ImageError, UnsupportedModelError
from gridprune.methods.registry import create
from gridprune.report import frames as sheet
from gridprune.runtime import ask as runtime
from gridprune.runtime.video import Video, evenly_spread, is_video, read_video

from . import chats
from .kit import VIDEO, model
from .models import LLAVA, ONEVISION_VIDEOS, QWEN2_5_VL_VIDEOS, VIDEO_LLAVA_VIDEOS
from .test_cues import clip_text
from .words import tokenizer

av = pytest.importorskip("av")
COUNT, SIZE = 23, 48


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Frame i of this video is grey, 10 i bright."""
    path = tmp_path_factory.mktemp("videos") / "video.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for i in range(COUNT):
            pixels = np.full((SIZE, SIZE, 3), 10 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def processor(case, build):
    """What a stock video processor does, without torchvision: resize, scale, expand the placeholder."""

    def call(text, videos, video_metadata, do_sample_frames, return_tensors):
        (frames,), (metadata,) = videos, video_metadata
        assert metadata["frames_indices"] == evenly_spread(COUNT, len(frames))
        assert (metadata["fps"], do_sample_frames, return_tensors) == (10.0, False, "pt")
        pixels = torch.stack([torch.tensor(np.array(f.resize((24, 24)))).permute(2, 0, 1) / 255 for f in frames])
        vision, count = build(pixels)
        before, after = text.split("<video>")
        words = [[10 + ord(c) % 80 for c in part] for part in (before, after)]
        ids = torch.tensor([[*words[0], *[VIDEO] * count, *words[1]]])
        return BatchFeature({"input_ids": ids, "attention_mask": torch.ones_like(ids), **case.extras(ids), **vision})

    class Processor:
        video_token, chat_template, tokenizer = "<video>", chats.HUMAN, None
        apply_chat_template = staticmethod(chats.processor("human").apply_chat_template)
        batch_decode = staticmethod(lambda rows, **_: [" ".join(str(int(i)) for i in row) for row in rows])
        __call__ = staticmethod(call)

    made = Processor()
    made.tokenizer = tokenizer()
    return made


def as_frames(per_frame, extra=0):
    return lambda pixels: ({"pixel_values_videos": pixels[None]}, len(pixels) * per_frame + extra)


def as_patches(pixels):
    """Qwen's patches, two frames deep: only their number matters here."""
    deep = len(pixels) // 2
    vision = {"pixel_values_videos": torch.randn(deep * 36, 96), "video_grid_thw": torch.tensor([[deep, 6, 6]])}
    return vision, deep * 9


FAMILIES = [
    (VIDEO_LLAVA_VIDEOS, as_frames(37), 36),
    (ONEVISION_VIDEOS, as_frames(9, 1), 9),
    (QWEN2_5_VL_VIDEOS, as_patches, 9),
]


def loaded(case, build):
    clip = clip_text() if case is VIDEO_LLAVA_VIDEOS else None
    return runtime.Loaded(case.name, model(case), processor(case, build), clip)


# -- reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "frames", "expected"),
    [(8, 8, [*range(8)]), (10, 5, [1, 3, 5, 7, 9]), (9, 3, [1, 4, 7]), (3, 8, [0, 1, 2]), (7, 1, [3])],
)
def test_middles_of_equal_parts(total, frames, expected):
    assert evenly_spread(total, frames) == expected


@pytest.mark.parametrize("frames", [1, 4, 8, COUNT, 100])
def test_frames_are_those_named(file, frames):
    video = read_video(file, frames)
    assert (video.total, video.rate) == (COUNT, 10.0)
    assert list(video.indices) == evenly_spread(COUNT, frames)
    for image, index in zip(video.frames, video.indices):
        assert (image.mode, image.size) == ("RGB", (SIZE, SIZE))
        assert abs(float(np.asarray(image).mean()) - 10 * index) < 5  # what the codec loses


def test_videos_are_told_from_images():
    assert [is_video(name) for name in ("a.mp4", "b.MOV", "c.webm", "d.gif", "e.png", "f")] == [True] * 3 + [False] * 3


def test_broken_files(file, tmp_path, monkeypatch):
    with pytest.raises(ImageError, match="no file"):
        read_video(tmp_path / "none.mp4")
    (tmp_path / "words.mp4").write_text("not a video")
    with pytest.raises(ImageError, match="cannot be read"):
        read_video(tmp_path / "words.mp4")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(ImageError):
        read_video(tmp_path / "empty.mp4")
    with pytest.raises(ImageError, match="at most 10"):
        read_video(file, max_bytes=10)
    with pytest.raises(ImageError, match="at least one frame"):
        read_video(file, 0)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImageError, match=r'pip install "gridprune\[video\]"'):
        read_video(file)


# -- asking ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "build", "per_frame"), FAMILIES, ids=lambda value: getattr(value, "name", ""))
def test_videos_are_asked_about(file, case, build, per_frame):
    ready, video = loaded(case, build), read_video(file, 4)
    full = runtime.answer(ready, video, "What is red?", max_new_tokens=3)
    pruned = runtime.answer(ready, video, "What is red?", GridPrune(keep="30%"), max_new_tokens=3)
    token_map = pruned.report.token_map.candidates
    frames = len(token_map.frame.unique())
    assert len(token_map) == frames * per_frame
    assert pruned.visual_tokens == pruned.report.kept == GridPrune(keep="30%").budget.resolve(len(token_map))
    assert full.visual_tokens == len(pruned.report.token_map)
    assert set(token_map.frame[pruned.report.kept_indices].tolist()) == set(range(frames))  # no frame vanished
    assert pruned.kv_bytes < full.kv_bytes
    assert len(pruned.text.split()) == 3


@pytest.mark.parametrize(("case", "build", "per_frame"), FAMILIES, ids=lambda value: getattr(value, "name", ""))
def test_every_frame_is_drawn_with_its_own_tokens(file, case, build, per_frame, tmp_path):
    """Four frames lie in a row on the sheet; a kept token's middle is clear, any other's is dimmed."""
    ready = loaded(case, build)
    report = runtime.answer(ready, read_video(file, 4), "Red?", GridPrune(keep="30%"), max_new_tokens=1).report
    candidates, white = report.token_map.candidates, Image.new("RGB", report.image().size, "white")
    frames = int(candidates.frame.max()) + 1
    assert white.width == frames * white.height
    drawn = np.asarray(report.overlay(white))[..., 0]
    height, width = drawn.shape
    middle = (candidates.boxes[:, :2] + candidates.boxes[:, 2:]) / 2
    x = ((candidates.frame + middle[:, 0]) / frames * width).long()
    clear = drawn[(middle[:, 1] * height).long(), x] == 255
    assert clear.nonzero()[0].tolist() == report.kept_indices.tolist()
    assert report.figure(tmp_path / "figure.png").is_file()


def test_frames_on_a_sheet():
    frames = torch.arange(6.0).view(6, 1, 1, 1).expand(-1, 3, 2, 2)
    assert sheet.join(frames)[0, ::2, ::2].tolist() == [[0, 1, 2, 3], [4, 5, 0, 0]]
    assert [sheet.shape(count) for count in (1, 3, 8, 16, 32)] == [(1, 1), (1, 3), (2, 4), (4, 4), (6, 6)]
    boxes = sheet.boxes(TokenMap.from_grid(1, 1, frames=6))
    assert boxes[[0, 5]].tolist() == [[0, 0, 0.25, 0.5], [0.25, 0.5, 0.5, 1]]


def test_differences_between_frames(file):
    """EVS keeps the first frame whole, and what changes."""
    ready, video = loaded(*FAMILIES[0][:2]), read_video(file, 4)
    report = runtime.answer(ready, video, "What is red?", create("evs", keep=50), max_new_tokens=1).report
    kept = report.token_map.candidates.frame[report.kept_indices]
    assert int((kept == 0).sum()) == 36
    assert len(kept) == 50


def test_a_model_without_videos_names_those_with(file):
    ready = runtime.Loaded("llava", model(LLAVA), SimpleNamespace())
    with pytest.raises(UnsupportedModelError, match="Qwen2_5_VLForConditionalGeneration"):
        runtime.prepare(ready, read_video(file, 2), "What?")


def test_ask_and_explain_take_a_video(file, tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "load", lambda *args, **kwargs: loaded(*FAMILIES[1][:2]))
    common = [str(file), "What is red?", "--model", "any", "--frames", "5", "--keep", "20", "--json"]
    asked = CliRunner().invoke(app, ["ask", *common, "--compare", "-o", str(tmp_path / "kept.png")])
    assert asked.exit_code == 0, asked.output
    answer = json.loads(asked.stdout)
    assert answer["visual_tokens"] == {"total": 45, "kept": 20}
    assert Image.open(tmp_path / "kept.png").size[0] > 0
    explained = CliRunner().invoke(app, ["explain", *common, "-o", str(tmp_path / "why.png")])
    assert explained.exit_code == 0, explained.output
    assert json.loads(explained.stdout)["visual_tokens"] == {"total": 45, "kept": 20}


def test_the_embedded_model_refuses_a_video(file):
    result = CliRunner().invoke(app, ["ask", str(file), "What is red?"])
    assert result.exit_code == 2
    assert "takes images, not videos" in " ".join(result.stderr.split())


def test_frames_can_come_from_anywhere(file):
    """`runtime.answer` takes frames that another library decoded."""
    frames = [Image.new("RGB", (30, 20), (i, i, i)) for i in range(4)]
    video = Video(frames, evenly_spread(COUNT, 4), COUNT, 10.0)
    assert runtime.answer(loaded(*FAMILIES[0][:2]), video, "What?", create("random", keep=9), max_new_tokens=1).text
