"""What runs inside the Python processes below `mdl run`: this folder comes first on their path."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.observe.hook._mdl_run_hook import Hook, Sender, cache_roots

__getattr__ = door(__name__, {"_mdl_run_hook": "Hook Sender cache_roots"})
