"""Runs the PTX that Triton compiles, on the CPU and thread by thread, through Triton's own launch.

Triton's interpreter runs a kernel's Python; this runs what the compiler made of it: layouts,
shuffles, asynchronous copies, barriers and tensor-core fragments. Beyond the result it reports what
a sanitizer would: accesses outside the arguments, misaligned ones, shared memory that is read
before it is written or that two warps touch without a barrier between them.

Semantics follow NVIDIA's "PTX ISA" (9.x). What is approximate there (`ex2.approx`, `div.full`) is
exact here, and a tensor core's sum is rounded once. Atomics and clusters are not there.
"""
