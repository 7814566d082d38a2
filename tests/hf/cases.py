"""All rows of the matrix that the installed transformers knows."""

from .models import CLIPS, STILL
from .newer import NEWER

CASES = [*STILL, *NEWER, *CLIPS]
