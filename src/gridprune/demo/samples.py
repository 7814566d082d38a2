"""Sample images with questions that fit them: scenes of the development split, made on the spot."""

from __future__ import annotations

from ..tiny.questions import balanced
from ..tiny.scenes import make_scene
from .session import Conversation

_SCENES = {"Hills": 2, "Clouds": 9, "Bricks": 7}
_FAMILIES = ("reading", "position", "attribute", "relation")


def samples() -> list[Conversation]:
    """The images every visitor begins with."""
    return [_sample(name, index) for name, index in _SCENES.items()]


def _sample(name: str, index: int) -> Conversation:
    scene = make_scene("dev", index)
    by_family = {question.kind: question.text for question in balanced(scene)}
    suggestions = [by_family[family] for family in _FAMILIES if family in by_family]
    return Conversation(name, scene.image, suggestions, scene=index)
