"""The size of weight files beside the number of weights: bits that nothing can talk away."""

from collections.abc import Iterable
from typing import NamedTuple

from mdl.formats.types import Description, File, Finding, total
from mdl.formats.weights import count_weights, named_weights

# Above this many stored bits weights are floats of 16 bits or more, whatever is said of them;
# below it they are not. Embeddings and norms stay floats, so quantized ones store more than told.
_FLOATS_FROM = 13.5
_SURELY_LESS = 11.0


class Measured(NamedTuple):
    """Stored bits a weight, and from what: `exact` counts come from the configuration or a header,
    the others from the number in the name."""

    bits: float
    expected_from: str
    exact: bool
    embeddings: float = 0.0  # the share of weights that quantization leaves as they are

    @property
    def said(self) -> str:
        return f"the files store {self.bits:.1f} bits a weight ({self.expected_from})"

    @property
    def is_quantized(self) -> bool:
        return self.bits < _SURELY_LESS

    def refutes(self, finding: Finding) -> str | None:
        """Why weights of this size cannot be what a finding says; `None` where they can."""
        if not self.exact or finding.format in ("16bit", "other") or finding.bits is None:
            return None
        expected = finding.bits * (1 - self.embeddings) + 16.0 * self.embeddings
        if self.bits >= _FLOATS_FROM and expected < 0.8 * self.bits:
            return f"{finding.format} would be {expected:.1f}"
        return None


def measure(description: Description, files: Iterable[File]) -> Measured | None:
    """Stored bits a weight; `None` where a size, or the number of weights, is not known."""
    size = total(files)
    if not size:
        return None
    if description.parameters:
        return Measured(8.0 * size / description.parameters, "the Hub's count of weights", True)
    weights = count_weights(description.config)
    if weights is not None and weights.total > 0:
        share = weights.embeddings / weights.total
        return Measured(8.0 * size / weights.total, "config.json's sizes", True, share)
    named = named_weights(description.name.rpartition("/")[2])
    if not named:  # the name says no number, or 0B
        return None
    return Measured(8.0 * size / named, f"of {named / 1e9:g} billion weights by its name", False)
