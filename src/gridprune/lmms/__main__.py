"""Prints the folder of our tasks, for `lmms-eval --include_path "$(python -m gridprune.lmms)"`."""

from . import TASKS

print(TASKS)
