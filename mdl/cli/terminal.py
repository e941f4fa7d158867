"""What is printed, cleaned of control characters: whatever it comes from, a terminal only shows it.

A name, the Hub's message or a model's text may contain escape sequences that move the cursor, hide
text or retitle the window. They are escaped here, on the streams themselves, so that no command
and no library can forget it.
"""

import re
from collections.abc import Iterable
from typing import Any, TextIO

from mdl.formatting import unsigned

_STYLE = r"\x1b\[(?:[0-4]|2[234]|3[1-79]|9[0-7])?(?:;(?:[0-4]|2[234]|3[1-79]|9[0-7]))*m"
# C0 but tab, newline and the return of a CRLF; DEL, C1; characters that reorder what stands beside.
_CONTROL = "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]|\r(?!\n)"
# How a progress bar begins to draw itself again: back to the line's start, up, cleared.
_REDRAW = r"(?:\r(?!\n)|\x1b\[\d*[AK]|\x1b\[\?25[hl])+"


def clean(text: str, *, styles: bool = False) -> str:
    """`text` with control characters escaped and addresses unsigned.

    With `styles`, bold and colours are left alone.
    """
    text = unsigned(text)
    # Most lines pass here, before any of these patterns is compiled.
    if text.removesuffix("\n").isprintable() or re.search(_CONTROL, text) is None:
        return text
    if styles:
        pattern = f"({_STYLE})|{_CONTROL}"
        return re.sub(pattern, lambda found: found[1] or repr(found[0])[1:-1], text)
    return re.sub(_CONTROL, lambda found: repr(found[0])[1:-1], text)


class CleanStream:
    """A text stream that escapes control characters.

    Args:
        stream: where it is written.
        styles: whether mdl itself colours what it writes here.
        redraws: whether progress bars are drawn here; a text may then begin with going back.
    """

    def __init__(self, stream: TextIO, *, styles: bool = False, redraws: bool = False) -> None:
        self._stream = stream
        self._styles = styles
        self._redraws = redraws

    def write(self, text: str) -> int:
        redraws = self._redraws and text.startswith(("\r", "\x1b"))
        begin = re.match(_REDRAW, text) if redraws else None
        start = begin.end() if begin else 0
        self._stream.write(text[:start] + clean(text[start:], styles=self._styles))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    @property
    def encoding(self) -> str:
        """Never ASCII: click would write around this stream, to its buffer."""
        encoding = self._stream.encoding or "utf-8"
        return (
            "latin-1" if encoding.lower() in ("ascii", "us-ascii", "ansi_x3.4-1968") else encoding
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
