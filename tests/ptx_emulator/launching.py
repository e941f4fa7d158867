"""Send mdl's kernels to the emulated GPU."""

import sys
from dataclasses import replace

import torch
import triton

from mdl.kernels.runtime import TABLE, config_for, launch
from ptx_emulator import Driver


def install(capability: int, *, whole_tiles: bool = True) -> Driver:
    """Run mdl's kernels as PTX for `sm_<capability>`, for the rest of this process.

    Args:
        whole_tiles: give each program the tile of a large weight, however few programs that leaves.
    """
    driver = Driver(capability)
    triton.runtime.driver.set_active(driver)
    table = {operation: config_for(operation, capability // 10) for operation in TABLE}
    if whole_tiles:
        table = {
            operation: replace(one, meta={**one.meta, "PROGRAMS": 0}) if "BN" in one.meta else one
            for operation, one in table.items()
        }
    ours = {
        launch.on_triton: lambda tensor: tensor.dtype != torch.float64,
        launch.config: lambda operation, tensor: table[operation],
    }
    for module in [module for name, module in sys.modules.items() if name.startswith("mdl.")]:
        for function, replaced in ours.items():
            if getattr(module, function.__name__, None) is function:
                setattr(module, function.__name__, replaced)
    return driver
