"""Reject models that will not fit before downloading weights."""

from mdl.errors import LoadError
from mdl.formats import find_tables, kv_cache_bytes, shape_of
from mdl.formatting import human_size
from mdl.loader.build import FALLBACKS
from mdl.loader.checkpoint import Checkpoint
from mdl.loader.devices import find_devices
from mdl.loader.disk import disk_too_small
from mdl.loader.planning.fit import DEFAULT_TOKENS
from mdl.loader.planning.load_plan import LoadPlan, check_experts, check_fp8, plan_model
from mdl.loader.source import LocatedModel


def check_fits(located: LocatedModel) -> None:
    """Reject a load that this machine cannot do, or has not enough memory for.

    The plan is made only if file sizes alone do not show that the model fits.

    Raises:
        LoadError: the model does not fit, or cannot be quantized here.
        MdlError: the plan cannot be made.
    """
    request, checkpoint = located.request, located.checkpoint
    check_fp8(located)
    check_experts(located)
    plan = plan_model(located) if _needs_plan(located) else None
    if request.check_memory and plan is None:
        packed = request.wants_4bit if checkpoint is None else checkpoint.becomes_4bit
        devices = find_devices(request, packed=packed)
        free = None if devices is None else sum(device.free for device in devices)
        if free is not None and upper_bound(located) > free:
            plan = plan_model(located)
    if plan is not None:
        check_plan(plan, sizes=request.check_memory)


def _needs_plan(located: LocatedModel) -> bool:
    """Whether only the plan tells if the weights can be loaded: those of a GGUF file on the Hub,
    which says what it is in its header, and those that may have to be dequantized."""
    if located.checkpoint is None and located.download is not None and located.download.gguf:
        return True
    methods = (table.get("quant_method") for _, table in find_tables(located.config))
    return not located.request.allow_dequantize and any(name in FALLBACKS for name in methods)


def upper_bound(located: LocatedModel) -> int:
    """The most bytes a load may need, from file sizes or headers: fast, so that loads that clearly
    fit need no plan."""
    tokens = located.request.max_seq_length or DEFAULT_TOKENS
    if located.checkpoint is not None:
        return _upper_bound_here(located.checkpoint, tokens)
    assert located.download is not None
    # 4-bit weights grow at most eightfold (to float32), fp8 and float16 less; GGUF has a plan
    # anyway. A token's KV cache is a thousandth of the weights at a hidden size of 250, and less at
    # every larger one.
    growth = 8 if next(find_tables(located.config), None) else 4
    return int(located.download.weight_bytes * (growth + tokens / 1000))


def _upper_bound_here(checkpoint: Checkpoint, tokens: int) -> int:
    width = {"float64": 8, "float32": 4}.get(checkpoint.request.dtype or "", 2)
    if not checkpoint.headers or (checkpoint.quantization and not checkpoint.is_bnb_4bit):
        growth = 20 if checkpoint.gguf_file else 2 * width  # GGUF has 1.6 bits a weight and more
        weights = checkpoint.stored_bytes * growth
    else:
        weights = sum(max(t.bytes, t.numel * width) for t in checkpoint.tensors.values())
    shape = shape_of(checkpoint.config)
    return weights + (kv_cache_bytes(shape, tokens, element=width) if shape else 0)


def check_plan(plan: LoadPlan, *, sizes: bool = True) -> None:
    """Reject a plan that does not fit, or makes floats of quantized weights unasked.

    Args:
        sizes: whether memory and disk have to suffice.

    Raises:
        LoadError: not enough memory, or a fallback that is not allowed.
        DiskError: not enough disk space.
    """
    change = plan.dequantized
    if change is not None and not change.allowed:
        raise LoadError(
            f"{plan.repo_id} is stored in {change.format}, and would become {change.dtype} here: "
            f"{human_size(plan.memory.weights)} instead of {human_size(change.stored_bytes)}.",
            why=f"{change.reason}.",
            next="Pass allow_dequantize=True (--allow-dequantize) to load it so, or load another "
            "format: `mdl tree NAME` lists them.",
            details=plan.to_json(),
        )
    if not sizes:
        return
    if plan.disk_short:
        raise disk_too_small(plan.cache_root, plan.disk_free, plan.download_bytes)
    if plan.memory_short == 0:
        return
    names = ", ".join(device.name for device in plan.devices)
    memory = plan.memory
    ways = "; ".join(plan.would_fit) or f"a device with {human_size(memory.total)} free"
    raise LoadError(
        f"{plan.repo_id} does not fit: it needs {human_size(memory.total)}, but only "
        f"{human_size(memory.total - plan.memory_short)} are free on {names}.",
        why=f"{human_size(memory.weights)} of weights ({plan.dtype}, {plan.format}) and "
        f"{human_size(memory.kv_cache)} of KV cache at {plan.tokens} tokens.",
        next=f"What would fit: {ways}. To try anyway: check_memory=False, --no-memory-check.",
        details=plan.to_json(),
    )
