"""All rows of the matrix that the installed transformers knows."""

from .models import STILL, VIDEOS
from .newer import NEWER

CASES = [*STILL, *NEWER, *VIDEOS]
