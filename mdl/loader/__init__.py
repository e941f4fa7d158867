"""From a name to a model that answers, and the report that says what it is.

`load` is the one call; `FastLanguageModel` and `FastVisionModel` take the call that Unsloth's
users already have. Importing this package costs no torch and no transformers.
"""

from mdl.loader.api import load, plan
from mdl.loader.loading import Loaded, load_request
from mdl.loader.report import Report
from mdl.loader.request import LoadRequest, Quantization
from mdl.loader.unsloth import FastLanguageModel, FastModel, FastVisionModel

__all__ = [
    "FastLanguageModel",
    "FastModel",
    "FastVisionModel",
    "LoadRequest",
    "Loaded",
    "Quantization",
    "Report",
    "load",
    "load_request",
    "plan",
]
