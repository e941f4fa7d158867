"""Parse the PTX that LLVM's NVPTX back end and Triton's inline assembly write."""

import functools
import re
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Address:
    """`[base + offset]`: a register or a symbol, and bytes."""

    base: str
    offset: int


Operand = str | int | Address | tuple[str, ...]
"""A register or symbol, an immediate (a float as its bits), an address, or a `{vector}`."""


@dataclass(frozen=True, eq=False)
class Instruction:
    """One statement; compared by identity, so that lookups by it are fast.

    place: the line of Triton source it came from.
    """

    words: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: str = ""
    negated: bool = False
    place: str = ""
    text: str = ""

    @property
    def name(self) -> str:
        return self.words[0]

    @property
    def type(self) -> str:
        return self.words[-1]


@dataclass
class Program:
    """One kernel. labels: index of an instruction; parameters: size in bytes."""

    name: str
    threads: int
    parameters: dict[str, int]
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)


_WAITING = ("{", "}", "waitLoop:", "@!complete bra.uni waitLoop;")
"""The loop around `mbarrier.try_wait`, which succeeds at once here."""
_ENTRY = re.compile(
    r"\.entry (\w+)\((.*?)\)\s*\.reqntid (\d+)[^{]*\{\n(.*?)\n\$L__func_end", re.DOTALL
)
_PARAMETER = re.compile(r"\.param \.[a-z](\d+)[^,]*?(\w+)\s*(?:,|$)")
_STATEMENT = re.compile(r"(?:@(!?)(%\w+)\s+)?(\S+)\s*(.*)", re.DOTALL)
_ADDRESS = re.compile(r"\[\s*([%\w]+)\s*(?:\+\s*(-?\w+))?\s*\]")


def parse(text: str) -> Program:
    """Parse a module with one kernel.

    Raises:
        ValueError: no kernel, or a statement in a form that Triton does not emit.
    """
    found = _ENTRY.search(text)
    if found is None:
        raise ValueError("no .entry with .reqntid in this PTX")
    name, parameters, threads, body = found.groups()
    sizes = {part: int(bits) // 8 for bits, part in _PARAMETER.findall(parameters.strip())}
    program = Program(name, int(threads), sizes)
    place = ""
    for line in body.splitlines():
        code, _, comment = line.partition("//")
        code = code.strip()
        if code.startswith(".loc"):
            place = comment.strip() or place
        elif label := re.fullmatch(r"(\$\w+):", code):
            program.labels[label.group(1)] = len(program.instructions)
        elif code in _WAITING:
            continue
        elif code and not code.startswith("."):
            for statement in filter(None, (part.strip() for part in code.split(";"))):
                program.instructions.append(_instruction(statement, place))
    return program


def _instruction(statement: str, place: str) -> Instruction:
    found = _STATEMENT.fullmatch(statement)
    if found is None or statement[0] in "{}":
        raise ValueError(f"cannot parse: {statement}")
    negated, guard, opcode, rest = found.groups()
    words = tuple(opcode.replace("::", "_").split("."))
    operands = tuple(_operand(part) for part in _split(rest))
    return Instruction(words, operands, guard or "", bool(negated), place, statement)


def _split(rest: str) -> list[str]:
    """Split at commas outside braces and brackets; `d|p` is two operands."""
    parts = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,|\s]+", rest)
    return [part.strip() for part in parts]


@functools.cache
def _operand(text: str) -> Operand:
    if text.startswith("{"):
        return tuple(part.strip() for part in text[1:-1].split(","))
    if found := _ADDRESS.fullmatch(text):
        return Address(found.group(1), int(found.group(2) or "0", 0))
    if re.fullmatch(r"0[fd][0-9A-Fa-f]+", text):
        return int(text[2:], 16)
    if re.fullmatch(r"-?\d\w*", text):
        return int(text.rstrip("U"), 0)
    return text
