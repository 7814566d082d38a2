"""What stock models cannot do, by version of transformers. A family declares it, and such calls are refused by name."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version

from packaging.version import Version

# What a family may declare in `limits`: ways of calling that its stock model cannot answer rightly. They are refused.
LATER_IMAGES = "images in a later turn"
PADDING_BEHIND_CACHE = "padding behind a cache"
CHUNKED_PREFILL = "chunked prefill"
STATIC_CACHE = "a static cache"


@dataclass(frozen=True)
class Limit:
    """Something that stock models cannot do.

    Attributes:
        reason: why, in words.
        before: the first version of transformers in which they can; empty if there is none.
    """

    reason: str
    before: str = ""

    @property
    def holds(self) -> bool:
        """Whether it holds with the installed transformers."""
        return not self.before or Version(version("transformers")) < Version(self.before)

    def __str__(self) -> str:
        return f"{self.reason} (transformers before {self.before})" if self.before else self.reason


SPLIT_IMAGES = Limit("every chunk is handed the images of the whole prompt", before="5.23")
