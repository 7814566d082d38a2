"""Every error gridprune raises on purpose. Each message says what was given, what was expected and what to do."""


class GridPruneError(Exception):
    """Base class: `except GridPruneError` catches everything this package raises on purpose."""


class BudgetError(GridPruneError, ValueError):
    """A count or share of visual tokens that cannot be met."""


class SettingError(GridPruneError, ValueError):
    """A method was built with a value outside its range."""


class UnknownNameError(GridPruneError, KeyError):
    """No method, family or cue goes by this name."""

    def __str__(self) -> str:  # KeyError would print the message in quotes
        return str(self.args[0]) if self.args else ""


class MissingCueError(GridPruneError, ValueError):
    """The method needs a cue (relevance, saliency, ...) that was not or cannot be computed here."""


class UnsupportedModelError(GridPruneError, TypeError):
    """No family knows this model class."""


class UnsupportedCallError(GridPruneError, ValueError):
    """The model is supported, this way of calling it is not."""


class QuestionError(GridPruneError, ValueError):
    """The method is conditioned on a question and none was found or given."""


class ImageError(GridPruneError, ValueError):
    """An image that cannot be read, or is out of bounds."""


class CheckpointError(GridPruneError, OSError):
    """A checkpoint that is missing, broken, or cannot be reached."""


class SelectionError(GridPruneError, RuntimeError):
    """A method did not choose what it was asked for; nothing was pruned."""


class InstallationError(GridPruneError, ImportError):
    """A package that is missing, or that does not fit another one."""


class BusyError(GridPruneError, RuntimeError):
    """The same model is being pruned, or the same files are being written, twice in a way that cannot be kept apart."""


class OutputError(GridPruneError, OSError):
    """A file that cannot be written."""


def first_line(error: BaseException) -> str:
    """The class of an error of another library, and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
