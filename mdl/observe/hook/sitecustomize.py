"""Runs at the start of every Python below `mdl run`, and then the environment's own sitecustomize.

Read by Pythons of any version, so nothing here is newer than the oldest.
"""

import os
import sys

_here = os.path.dirname(__file__)
try:
    if sys.version_info >= (3, 8):
        import _mdl_run_hook

        _mdl_run_hook.wait_for_libraries()
finally:
    # As if this had never been there: the next one on the path is imported, or none is found.
    sys.path[:] = [path_in_cache for path_in_cache in sys.path if path_in_cache != _here]
    sys.path_importer_cache.pop(_here, None)
    sys.modules.pop(__name__, None)
import sitecustomize  # noqa: E402, F401
