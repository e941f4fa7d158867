"""How sizes, ages, names and tables are written, in terminals and on pages."""

import os
import sys
from collections.abc import Iterable, Sequence


def printable(text: str) -> str:
    """`text` on one line, control characters and surrogates escaped: safe for a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def unsigned(text: str) -> str:
    """`text` with the signatures of its addresses cut off: with one, anybody reads a gated file."""
    if "://" not in text:
        return text
    import re

    return re.sub(
        r"(?i)(https?://[^\s?'\"]+)\?[^\s'\"]*(signature|policy|x-amz)[^\s'\"]*", r"\1", text
    )


def human_size(size: int | float | None) -> str:
    """Bytes in decimal units, as the Hub counts them: `65.2 GB`, `512 B`, `-` for unknown."""
    if size is None:
        return "-"
    if abs(size) < 999.5:
        return f"{size:.0f} B"
    for unit in "KMGT":
        size /= 1000
        if abs(size) < 999.95:
            return f"{size:.1f} {unit}B"
    return f"{size / 1000:.1f} PB"


def counted(count: int, noun: str) -> str:
    """`1 repository`, `2 repositories`, `3 days`."""
    if count == 1:
        return f"1 {noun}"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{count} {noun[:-1]}ies"
    return f"{count} {noun}s"


def human_ago(then: float | None, now: float | None = None) -> str:
    """`5 minutes ago`, `3 days ago`, `-` for never."""
    if then is None:
        return "-"
    import time

    seconds = max(0.0, (time.time() if now is None else now) - then)
    for unit, size in (("year", 31557600), ("month", 2629800), ("week", 604800), ("day", 86400),
                       ("hour", 3600), ("minute", 60)):  # fmt: skip
        if seconds >= size:
            count = int(seconds // size)
            return f"{counted(count, unit)} ago"
    return "just now"


# Style → what switches it on in a terminal.
STYLES = {"bold": "\033[1m", "good": "\033[32m", "warning": "\033[33m", "bad": "\033[31m"}
_NARROWEST = 10  # columns that a column of text keeps
_READABLE = 32  # and that it has before others are dropped


def styled(text: str, style: str) -> str:
    """`text` in one of `STYLES`, if standard output is a terminal with colours."""
    if not style or not text or not sys.stdout.isatty():
        return text
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"{STYLES[style]}{text}\033[0m"


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    right: Iterable[str] = (),
    spare: Iterable[str] = (),
    styles: Sequence[str] = (),
    indent: int = 0,
) -> str:
    """Columns padded with spaces; on a terminal no row is wider than it, and the header is bold.

    In too wide a table the widest columns of text are shortened; columns that can be spared are
    dropped where no readable width would be left. Without a terminal, every cell is whole.

    Args:
        right: titles of right-aligned columns, which are never shortened.
        spare: titles of columns that can be dropped, in this order.
        styles: of each row: one of `STYLES`, or empty.
        indent: spaces before each row.
    """
    before = " " * indent
    lines = [list(header), *[[printable(cell) for cell in row] for row in rows]]
    if not sys.stdout.isatty():
        natural = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(before + line for line in _plain(lines, natural, right))
    import shutil

    columns = shutil.get_terminal_size().columns - indent
    widths = [max(map(shown_width, column)) for column in zip(*lines, strict=True)]
    for title in spare:
        text = [min(w, _READABLE) for w, t in zip(widths, lines[0], strict=True) if t not in right]
        numbers = [w for w, t in zip(widths, lines[0], strict=True) if t in right]
        if sum(text) + sum(numbers) + 2 * (len(widths) - 1) > columns:
            _leave_out(lines, widths, lines[0].index(title))
    _narrow(widths, [i for i, title in enumerate(lines[0]) if title not in right], columns)
    lines = [list(map(shorten, line, widths)) for line in lines]
    if all("".join(line).isascii() for line in lines):
        rendered = _plain(lines, widths, right)
    else:
        rendered = [_padded(line, lines[0], widths, right) for line in lines]
    looks = ["bold", *(styles or [""] * (len(lines) - 1))]
    shown = (styled(shorten(t, columns), look) for t, look in zip(rendered, looks, strict=True))
    return "\n".join(before + line for line in shown)


def branches(depths: Sequence[int]) -> list[str]:
    """What stands before each line of a tree, by how deep it is: `├── `, below it `│   `."""
    found: list[str] = []
    following: set[int] = set()  # depths at which another line of the same parent follows
    for depth in reversed(depths):
        above = "".join("│   " if d in following else "    " for d in range(1, depth))
        own = "├── " if depth in following else "└── "
        found.append(above + own if depth else "")
        following = {d for d in following if d < depth} | {depth}
    return found[::-1]


def _plain(lines: list[list[str]], widths: list[int], right: Iterable[str]) -> list[str]:
    rights = {lines[0].index(title) for title in right if title in lines[0]}
    # One format string for all rows: padding each cell takes three times as long.
    row = "  ".join(f"{{:{'>' if i in rights else '<'}{w}}}" for i, w in enumerate(widths)).format
    return [row(*line).rstrip() for line in lines]


def _padded(line: list[str], titles: list[str], widths: list[int], right: Iterable[str]) -> str:
    cells = []
    for cell, title, width in zip(line, titles, widths, strict=True):
        space = " " * (width - shown_width(cell))
        cells.append(space + cell if title in right else cell + space)
    return "  ".join(cells).rstrip()


def _leave_out(lines: list[list[str]], widths: list[int], column: int) -> None:
    del widths[column]
    for line in lines:
        del line[column]


def _narrow(widths: list[int], flexible: list[int], columns: int) -> None:
    """Take what is too much from the widest of the flexible columns, in place."""
    while (over := sum(widths) + 2 * (len(widths) - 1) - columns) > 0 and flexible:
        most = max(widths[i] for i in flexible)
        if most <= _NARROWEST:
            return
        widest = [i for i in flexible if widths[i] == most]
        next_widest = max([widths[i] for i in flexible if widths[i] < most], default=0)
        step = min(most - max(next_widest, _NARROWEST), -(-over // len(widest)))
        for i in widest:
            widths[i] -= step


def shown_width(text: str) -> int:
    """The columns of a terminal that a text takes: two for a wide character, none for an accent."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(c) else 1 + (east_asian_width(c) in "WF") for c in text)


def shorten(text: str, width: int) -> str:
    """At most `width` columns of a text: a sentence keeps its beginning, a name both its ends."""
    if shown_width(text) <= width:
        return text
    if width < 1:
        return ""
    end = "" if " " in text else _first(text[::-1], (width - 1) // 2)[::-1]
    return f"{_first(text, width - 1 - shown_width(end))}…{end}"


def _first(text: str, width: int) -> str:
    """As much of the beginning as fits into `width` columns."""
    taken = 0
    for number, character in enumerate(text):
        taken += shown_width(character)
        if taken > width:
            return text[:number]
    return text
