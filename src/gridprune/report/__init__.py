"""What was kept of an image, where and why, as data and as pictures."""

from .report import Report

__all__ = ["Report"]
