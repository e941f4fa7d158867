"""The checking process with the compiled kernels on an emulated H100."""

import mdl.kernels.first_use.trials
import mdl.kernels.nf4.quantize
import mdl.kernels.ops.glu
import mdl.kernels.ops.linear4bit
import mdl.kernels.ops.loss
import mdl.kernels.ops.norm
import mdl.kernels.ops.rope  # noqa: F401 # all that launches must be loaded before it is redirected
from mdl.kernels.first_use import worker
from tests.ptx_emulator.launching import install

driver = install(90, whole_tiles=False)
worker._ROUNDS = 1
worker.stages = lambda need: [(1, False), (9, need.operation != "linear_4bit")]
worker.main()
assert driver.launched, "no kernel ran"
