"""From a name to a model that answers, and the report that says what it is.

`load` is the one call; `FastLanguageModel` and `FastVisionModel` take the call that Unsloth's
users already have. Importing this package costs no torch and no transformers.
"""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.loader.api import load, make_request, plan
    from mdl.loader.generate import answer_prompt
    from mdl.loader.pipeline import Loaded, load_request
    from mdl.loader.progress import progress_for
    from mdl.loader.pulled import Pulled, pull
    from mdl.loader.report import Report, make_folder_for
    from mdl.loader.request import LoadRequest, Quantization
    from mdl.loader.unsloth.fast_model import FastLanguageModel, FastModel, FastVisionModel
    from mdl.loader.verify import Verification, verify_target

__getattr__ = door(
    __name__,
    {
        "api": "load make_request plan",
        "generate": "answer_prompt",
        "pipeline": "Loaded load_request",
        "progress": "progress_for",
        "pulled": "Pulled pull",
        "report": "Report make_folder_for",
        "request": "LoadRequest Quantization",
        "unsloth.fast_model": "FastLanguageModel FastModel FastVisionModel",
        "verify": "Verification verify_target",
    },
)
