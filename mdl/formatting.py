"""How sizes, ages, names and tables are written, in terminals and on pages."""

import sys
from collections.abc import Iterable, Sequence


def printable(text: str) -> str:
    """`text` on one line, control characters and surrogates escaped: safe for a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


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
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    right: Iterable[str] = (),
    spare: Iterable[str] = (),
) -> str:
    """Columns padded with spaces; a narrow terminal drops some, then shortens the first.

    Args:
        right: titles of right-aligned columns.
        spare: titles of columns that can be dropped, in this order.
    """
    lines = [list(header), *[[printable(cell) for cell in row] for row in rows]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if sys.stdout.isatty():
        import shutil

        width = shutil.get_terminal_size().columns
        for title in spare:
            if sum(widths) + 2 * (len(widths) - 1) > width:
                _leave_out(lines, widths, lines[0].index(title))
        width -= sum(widths[1:]) + 2 * (len(widths) - 1)
        widths[0] = min(widths[0], max(20, width))
        for line in lines:
            line[0] = _shorten(line[0], widths[0])
    rights = {lines[0].index(title) for title in right if title in lines[0]}
    # One format string for all rows: padding each cell takes three times as long.
    row = "  ".join(f"{{:{'>' if i in rights else '<'}{w}}}" for i, w in enumerate(widths)).format
    return "\n".join([row(*line).rstrip() for line in lines])


def _leave_out(lines: list[list[str]], widths: list[int], column: int) -> None:
    del widths[column]
    for line in lines:
        del line[column]


def _shorten(cell: str, width: int) -> str:
    return cell if len(cell) <= width else cell[: width - 1] + "…"
