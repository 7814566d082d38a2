"""Files with one JSON object a line, as people's tools write them."""

from __future__ import annotations

from pathlib import Path

from ..errors import SettingError


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, a byte order mark taken off. Only line feeds and carriage returns end a line.

    `str.splitlines` would also cut at U+2028 and U+0085, which stand unescaped in JSON strings.

    Raises:
        SettingError: the file is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise SettingError(f"{path.name} is not UTF-8 (byte {error.start}). Save it as UTF-8.") from None
