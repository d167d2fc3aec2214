"""Text from files, made harmless where it is shown: on a terminal, in a log, in a table."""

from __future__ import annotations

import html
import logging
import re
import reprlib
from typing import Any

# Control characters but tab and line feed, marks that turn the direction of text, separators of
# lines, and halves of surrogate pairs (bytes of file names that are not UTF-8).
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 3, 60, 60, 40
# Spreadsheets take the wide forms of East Asian text for the same.
_FORMULA_STARTS = tuple("=+-@\t\n\uff1d\uff0b\uff0d\uff20")


def visible(text: str) -> str:
    """Write control characters, marks of direction and broken bytes as escapes.

    Example:
        >>> print(visible("\\x1b[31mred\\x1b[0m"))
        \\x1b[31mred\\x1b[0m
    """
    return _HIDDEN.sub(lambda match: _escape(match[0]), text)


def visible_json(text: str) -> str:
    """JSON text of the same meaning, in which such characters are escapes of JSON."""
    return _HIDDEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def escape(text: str) -> str:
    """Text as HTML, also within the quotes of an attribute.

    Example:
        >>> escape("<b> & \\x1b")
        '&lt;b&gt; &amp; \\\\x1b'
    """
    return html.escape(visible(text))


def csv_cell(value: Any) -> Any:
    """A value for a CSV file; text that a spreadsheet would run as a formula gets a quote first.

    Example:
        >>> csv_cell("=1+1"), csv_cell(-0.5), csv_cell("road")
        ("'=1+1", -0.5, 'road')
    """
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def shortened(value: Any) -> str:
    """A value as Python writes it, in the length of a line."""
    return _SHORT.repr(value)


class VisibleFormatter(logging.Formatter):
    """Formats records of a log as `visible` text."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        return visible(super().format(record))


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte of a name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
