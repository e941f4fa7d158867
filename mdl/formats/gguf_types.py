"""The types of GGUF files: their names, their bits a weight, which a runtime takes by default."""

import re

# Bits a weight of a whole file, as llama.cpp's own quantizer reports them for a model of 8B.
BITS = {
    "F32": 32.0, "BF16": 16.0, "F16": 16.0,
    "Q8_0": 8.5, "Q8_1": 9.0, "Q8_K": 9.1, "Q8_K_XL": 10.0,
    "Q6_K": 6.56, "Q6_K_L": 6.8, "Q6_K_XL": 7.1,
    "Q5_K_XL": 5.8, "Q5_K_L": 5.8, "Q5_K_M": 5.7, "Q5_K_S": 5.57, "Q5_K": 5.7, "Q5_0": 5.6,
    "Q5_1": 6.07,
    "Q4_K_XL": 5.0, "Q4_K_L": 5.0, "Q4_K_M": 4.89, "Q4_K_S": 4.67, "Q4_K": 4.89, "Q4_0": 4.66,
    "Q4_1": 5.13, "Q4_2": 4.7, "Q4_3": 5.1, "Q4_1_SOME_F16": 5.6,
    "Q4_0_4_4": 4.66, "Q4_0_4_8": 4.66, "Q4_0_8_8": 4.66,
    "IQ4_NL": 4.68, "IQ4_XS": 4.46, "MXFP4_MOE": 4.25, "MXFP4": 4.25, "NVFP4": 4.5,
    "Q3_K_XL": 4.5, "Q3_K_L": 4.3, "Q3_K_M": 4.0, "Q3_K_S": 3.64, "Q3_K": 4.0,
    "IQ3_M": 3.76, "IQ3_S": 3.66, "IQ3_XS": 3.5, "IQ3_XXS": 3.25,
    "Q2_K_XL": 3.3, "Q2_K_L": 3.4, "Q2_K": 3.16, "Q2_K_S": 2.97,
    "IQ2_M": 2.93, "IQ2_S": 2.74, "IQ2_XS": 2.59, "IQ2_XXS": 2.38,
    "IQ1_M": 2.15, "IQ1_S": 2.0, "TQ2_0": 2.06, "TQ1_0": 1.69, "Q1_0": 1.13,
}  # fmt: skip

# `general.file_type` in a header.
FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 4: "Q4_1_SOME_F16", 7: "Q8_0", 8: "Q5_0",
    9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M",
    16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S",
    22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M",
    28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 33: "Q4_0_4_4",
    34: "Q4_0_4_8", 35: "Q4_0_8_8", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE", 39: "NVFP4",
    40: "Q1_0",
}  # fmt: skip

# A tensor's type in a header: weights in a block, and bytes of it.
BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    9: (32, 40), 10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210),
    15: (256, 292), 16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18),
    21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8),
    28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
    40: (64, 36), 41: (128, 18),
}  # fmt: skip

# What llama.cpp takes where no variant is named, and after it what comes closest.
DEFAULTS = (
    "Q4_K_M", "Q8_0", "UD-Q4_K_XL", "Q4_K_L", "Q4_K_S", "Q4_K", "MXFP4_MOE", "MXFP4", "IQ4_XS",
    "IQ4_NL", "Q4_0", "Q5_K_M", "Q5_K_S", "Q6_K", "BF16", "F16", "F32",
)  # fmt: skip

_SIZES = "XXS|XXL|XS|XL|NL|MOE|S|M|L|P"
# The separators vary (`Q4-K-M`, `IQ2XXS`); what a type is made of does not.
_TYPE = re.compile(
    rf"""
    (?P<ud>UD[-_])?
    (?:
        (?P<float>BF16|FP?16|FP?32)
      | (?P<fp4>MXFP4|NVFP4)(?:[_-](?P<moe>MOE))?(?![0-9])
      | (?P<kind>I?Q)(?P<bits>[1-8])[_-]?
        (?: (?P<k>K)(?P<trellis>[STL]{{1,2}}|V2)?(?:[_-]?(?P<ksize>{_SIZES}))?
          | (?P<isize>{_SIZES})
          | (?P<round>[0-3])(?:[_-](?P<arm>[48][_-][48]|L|SOME[_-]F16))?
        )(?:[_-](?P<rows>R[48]))?
      | (?P<tq>TQ[12])[_-]0
    )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_BARE = re.compile(r"(?<![A-Z0-9])(?:Q|INT)([2-8])(?:[_-]?BIT)?(?![A-Z0-9])", re.IGNORECASE)
_MIXED = re.compile(r"(?<![A-Z0-9])(\d{1,3})(I?Q\d_[A-Z0-9]+|B?F16|F32)(?=$|[-.])", re.IGNORECASE)


def type_in(text: str) -> str | None:
    """The type that a file's name (without its ending) gives: the last one, in one spelling."""
    mixed = _MIXED.findall(text)
    if len(mixed) > 1:  # `-55IQ2_XXS-34Q2_K-`: shares of the file, in per cent
        return str(max(mixed, key=lambda part: int(part[0]))[1]).upper()
    for bounded in (True, False):
        found = None
        for match in _TYPE.finditer(text):
            if match["isize"] and match["kind"].upper() != "IQ":
                continue
            if _stands_alone(text, match) if bounded else _beyond_doubt(match):
                found = _spell(match)
        if found:
            return found
    bare = _BARE.findall(text)
    return f"Q{bare[-1]}" if bare else None


def bits_of(variant: str) -> float | None:
    """Bits a weight of a type, `UD-` and suffixes of other quantizers' types included."""
    name = variant.upper().removeprefix("UD-")
    if name in BITS:
        return BITS[name]
    base = re.match(r"I?Q(\d)", name)
    return None if base is None else float(base[1]) + 0.5


def default_order(variant: str) -> tuple[int, float, str]:
    """A key that sorts a runtime's default first, then by how far from 4.5 bits."""
    upper = variant.upper()
    if upper in DEFAULTS:
        return DEFAULTS.index(upper), 0.0, upper
    return len(DEFAULTS), abs((bits_of(variant) or 99.0) - 4.5), upper


def _stands_alone(text: str, match: re.Match[str]) -> bool:
    before, after = text[: match.start()], text[match.end() :]
    return not before[-1:].isalnum() and not after[:1].isalnum()


def _beyond_doubt(match: re.Match[str]) -> bool:
    """Whether it can only be a type, inside a longer word too: `Q4_K_M`, `IQ3_XS`, `Q8_0`."""
    return "_" in match[0] and bool(match["ksize"] or match["isize"] or match["round"])


def _spell(match: re.Match[str]) -> str:
    prefix = "UD-" if match["ud"] else ""
    if match["float"]:
        return prefix + match["float"].upper().replace("FP", "F")
    if match["fp4"]:
        return prefix + match["fp4"].upper() + ("_MOE" if match["moe"] else "")
    if match["tq"]:
        return f"{prefix}{match['tq'].upper()}_0"
    parts = [f"{match['kind']}{match['bits']}"]
    if match["k"]:
        parts.append("K" + (match["trellis"] or ""))
    parts += [match[each] for each in ("ksize", "isize", "round", "arm", "rows") if match[each]]
    return prefix + "_".join(parts).upper().replace("-", "_")
