"""What was kept of an image, where and why, as data and as images."""

from .report import Report

__all__ = ["Report"]
