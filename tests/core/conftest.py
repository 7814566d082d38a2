"""What hypothesis tries: the same examples everywhere."""

from hypothesis import settings

settings.register_profile("core", deadline=None, max_examples=120, derandomize=True)
settings.load_profile("core")
