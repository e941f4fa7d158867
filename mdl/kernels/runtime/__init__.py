"""How kernels are launched: configurations, custom operators, scratch memory, CPU threads."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.kernels.runtime.cpu_threads import in_threads
    from mdl.kernels.runtime.fallback import (
        failed_kernels,
        kernel_or_reference,
        raising_failures,
    )
    from mdl.kernels.runtime.huge_pages import fresh
    from mdl.kernels.runtime.launch import (
        OLDEST_CAPABILITY,
        config,
        custom_op,
        has_triton,
        interpreting,
        launch_kernel,
        on_triton,
        scratch,
        stored_dtype,
    )
    from mdl.kernels.runtime.launch_configs import CANDIDATES, TABLE, Config, config_for, row_config

__getattr__ = door(
    __name__,
    {
        "cpu_threads": "in_threads",
        "fallback": "failed_kernels kernel_or_reference raising_failures",
        "huge_pages": "fresh",
        "launch": (
            "OLDEST_CAPABILITY config custom_op has_triton interpreting "
            "launch_kernel on_triton scratch stored_dtype"
        ),
        "launch_configs": "CANDIDATES Config TABLE config_for row_config",
    },
)
