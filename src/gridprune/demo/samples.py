"""Sample images with questions that fit them: generated scenes for the embedded model, photographs for all others."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from PIL.Image import Image

from ..runtime.images import decode_image
from ..tiny.questions import balanced
from ..tiny.scenes import make_scene
from .limits import images_in
from .session import Conversation

_SCENES = {"Stop": 17, "Clouds": 9, "Pizza": 18}  # of the first, random and uniform lose what GridPrune keeps
_KINDS = ("reading", "position", "attribute", "relation")
_PHOTOS = {  # photos/LICENSE.txt says whose they are
    "coffee": ("What is next to the cup?", "What is the cup standing on?", "Describe the image."),
    "cat": ("What color are the eyes of the cat?", "Is the cat looking at the camera?", "Describe the image."),
    "rocket": ("What is happening here?", "Is it day or night?", "How many towers are there?"),
}

_SCENE_PAIR = ("What color is the card behind the bus?", "Where is the tree?", "Is the bus below the apple?")
_PHOTO_PAIR = ("What is different between the two images?", "Which image shows an animal?", "Describe both images.")


def samples(embedded: bool = True) -> list[Conversation]:
    """The images every visitor begins with, the last two together; the embedded model knows scenes only."""
    if embedded:
        single = [_scene(name, index) for name, index in _SCENES.items()]
        return [*single, _together(single[:2], _SCENE_PAIR)]
    single = [_photo(name, questions) for name, questions in _PHOTOS.items()]
    return [*single, _together(single[:2], _PHOTO_PAIR)]


def photo(name: str) -> Image:
    """A photograph of the page: "coffee", "cat" or "rocket"."""
    return decode_image((files(__package__) / "photos" / f"{name}.jpg").read_bytes())


def _together(parts: Sequence[Conversation], suggestions: Sequence[str]) -> Conversation:
    """Several samples as one, with questions over all of them."""
    return Conversation(
        [name for part in parts for name in part.names],
        [image for part in parts for image in images_in(part.images)],
        suggestions,
        [source for part in parts for source in part.sources],
    )


def _scene(name: str, index: int) -> Conversation:
    scene = make_scene("dev", index)
    by_kind = {question.kind: question.text for question in balanced(scene)}
    suggestions = [by_kind[kind] for kind in _KINDS if kind in by_kind]
    source = ("from gridprune.tiny.scenes import make_scene", f'make_scene("dev", {index}).image')
    return Conversation([name], [scene.image], suggestions, [source])


def _photo(name: str, questions: tuple[str, ...]) -> Conversation:
    source = ("from gridprune.demo.samples import photo", f'photo("{name}")')
    return Conversation([name], [photo(name)], questions, [source])
