"""Sample images with questions that fit them: generated scenes for the embedded model, photographs for all others."""

from __future__ import annotations

from importlib.resources import files

from PIL.Image import Image

from ..runtime.images import decode_image
from ..tiny.questions import balanced
from ..tiny.scenes import make_scene
from .session import Conversation

_SCENES = {"Stop": 17, "Clouds": 9, "Pizza": 18}  # of the first, random and uniform lose what GridPrune keeps
_KINDS = ("reading", "position", "attribute", "relation")
_PHOTOS = {  # photos/LICENSE.txt says whose they are
    "coffee": ("What is next to the cup?", "What is the cup standing on?", "Describe the image."),
    "cat": ("What color are the eyes of the cat?", "Is the cat looking at the camera?", "Describe the image."),
    "rocket": ("What is happening here?", "Is it day or night?", "How many towers are there?"),
}


def samples(embedded: bool = True) -> list[Conversation]:
    """The images every visitor begins with; the embedded model knows scenes only."""
    if embedded:
        return [_scene(name, index) for name, index in _SCENES.items()]
    return [_photo(name, questions) for name, questions in _PHOTOS.items()]


def photo(name: str) -> Image:
    """A photograph of the page: "coffee", "cat" or "rocket"."""
    return decode_image((files(__package__) / "photos" / f"{name}.jpg").read_bytes())


def _scene(name: str, index: int) -> Conversation:
    scene = make_scene("dev", index)
    by_kind = {question.kind: question.text for question in balanced(scene)}
    suggestions = [by_kind[kind] for kind in _KINDS if kind in by_kind]
    source = ("from gridprune.tiny.scenes import make_scene", f'make_scene("dev", {index}).image')
    return Conversation(name, scene.image, suggestions, source)


def _photo(name: str, questions: tuple[str, ...]) -> Conversation:
    source = ("from gridprune.demo.samples import photo", f'photo("{name}")')
    return Conversation(name, photo(name), questions, source)
