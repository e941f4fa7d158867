"""What a request asks for, out of a query string or a JSON body."""

from typing import Any
from urllib.parse import parse_qsl

from mdl.errors import UsageError
from mdl.resolver import ResolveOptions

FIELDS = ("format", "exact", "revision", "prefer", "fp8_scaling")
_KNOWN = frozenset(FIELDS)
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")


def from_query(query: bytes, prefer: str) -> tuple[str, ResolveOptions]:
    """(name, options) of `name=…&format=…`.

    Raises:
        UsageError: a field that is unknown, given twice or no text, or a missing name.
    """
    values: dict[str, Any]
    try:
        text = query.decode("ascii")
        if "%" in text or "+" in text:
            pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=16, errors="strict")
            count, values = len(pairs), dict(pairs)
        else:  # nothing to decode: a split is all
            parts = text.split("&") if text else []
            count, values = len(parts), dict(part.split("=", 1) for part in parts)
    except ValueError:
        raise UsageError(
            "The query string cannot be read.", next="Write ?name=org/name, percent-encoded."
        ) from None
    if len(values) != count:
        raise UsageError("A field is given twice.", next="Ask for one name at a time.")
    name = values.pop("name", None)
    if name is None:
        raise UsageError("Which name?", next="Add ?name=org/name")
    return name, from_fields(values, prefer)


def from_fields(values: dict[str, Any], prefer: str) -> ResolveOptions:
    """The options in the fields of a query or a body.

    Raises:
        UsageError: an unknown field, or a value mdl does not know.
    """
    if not values.keys() <= _KNOWN:
        unknown = sorted(set(values) - _KNOWN)
        raise UsageError(
            f"Unknown fields: {', '.join(ascii(field)[:40] for field in unknown[:5])}.",
            next=f"Known are: name, {', '.join(FIELDS)}.",
        )
    return ResolveOptions(
        format=values.get("format") or "16bit",
        exact=_boolean(values.get("exact", False)),
        revision=values.get("revision") or None,
        prefer=values.get("prefer") or prefer,
        fp8_scaling=values.get("fp8_scaling") or "block",
    )


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() in _TRUE + _FALSE:
        return str(value).lower() in _TRUE
    raise UsageError(f"{ascii(value)[:40]} is neither true nor false.", next="Write true or false.")
