"""From a name to a model that answers, and the report that says what it is.

`load` is the one call; `FastLanguageModel` and `FastVisionModel` take the call that Unsloth's
users already have. Importing this package costs no torch and no transformers.
"""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.loader.adapter import find_adapter
    from mdl.loader.api import load, make_request, plan
    from mdl.loader.generate import answer_prompt
    from mdl.loader.pipeline import Loaded, load_request
    from mdl.loader.progress import progress_for
    from mdl.loader.report import Report, make_folder_for
    from mdl.loader.request import LoadRequest, Quantization
    from mdl.loader.unsloth.fast_model import FastLanguageModel, FastModel, FastVisionModel
    from mdl.loader.verify import repair_snapshot, verify_target

__getattr__ = door(
    __name__,
    {
        "adapter": "find_adapter",
        "api": "load make_request plan",
        "generate": "answer_prompt",
        "pipeline": "Loaded load_request",
        "progress": "progress_for",
        "report": "Report make_folder_for",
        "request": "LoadRequest Quantization",
        "unsloth.fast_model": "FastLanguageModel FastModel FastVisionModel",
        "verify": "repair_snapshot verify_target",
    },
)
