"""Loading beside transformers: wall time, the load call alone, memory, Hub requests.

    python -m benchmarks.loading [--repeats 3] [--cells warm,cold,once,requests,text]
                                 [--kinds bf16,nf4,on-load] [--small]

The model has the shape of Llama-3.2-1B (1.2 B parameters, bf16, five shards, random weights) and is
created in `.demo/bench`, together with an NF4 version. Each run is a fresh process, the two loaders
take turns, and figures are medians. `--small` uses a model of a few MB, to try the benchmark
itself. `imports alone` is what no loader can save: just importing the modules that both need.
`text` is the perplexity of the real SmolLM2-135M on the first 1024 tokens of the licence, in 16 and
4 bits, loaded by both.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CACHE = Path(__file__).resolve().parent.parent / ".demo" / "bench"
KINDS = ("bf16", "nf4", "on-load")
LOADERS = ("transformers", "mdl")


def make_models(small: bool) -> tuple[Path, Path]:
    """The folders of the bf16 model and its NF4 version, created once."""
    bf16 = CACHE / ("small" if small else "llama-1b")
    nf4 = bf16.with_name(f"{bf16.name}-nf4")
    if not (bf16 / "config.json").exists():
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        from tests.loader.tiny import tokenizer

        shape = {
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 128256,
        }
        if small:
            shape |= {
                "hidden_size": 256,
                "intermediate_size": 512,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "vocab_size": 1000,
            }
        config = LlamaConfig(**shape, tie_word_embeddings=True, dtype="bfloat16")
        torch.set_default_dtype(torch.bfloat16)
        LlamaForCausalLM(config).save_pretrained(bf16, max_shard_size="600MB")
        tokenizer().save_pretrained(bf16)
    if not (nf4 / "config.json").exists():
        from mdl.loader import LoadRequest
        from mdl.loader.build import build_model
        from mdl.loader.checkpoint import read_checkpoint

        request = LoadRequest(str(bf16), format="bnb-4bit")
        built = build_model(read_checkpoint(bf16, request))
        built.model.save_pretrained(nf4)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            (nf4 / name).write_bytes((bf16 / name).read_bytes())
    return bf16, nf4


def load_with(loader: str, kind: str, folder: str) -> Any:
    """The model and its tokenizer, loaded by one of the two."""
    if loader == "mdl":
        import mdl

        model, tokenizer = mdl.load(folder, load_in_4bit=kind != "bf16", quantize_once=False)
        return model, tokenizer
    import torch
    import transformers

    options = {}
    if kind == "on-load":
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto", **options)
    return model, tokenizer


def child(loader: str, kind: str, folder: str) -> None:
    """In a fresh process: load, generate a token, measure memory, then time more load calls."""
    started = float(os.environ["STARTED"])
    model, tokenizer = load_with(loader, kind, folder)
    ready, cpu = time.time() - started, time.process_time()
    model.generate(**tokenizer("Hello", return_tensors="pt"), max_new_tokens=1, do_sample=False)
    first = time.time() - started
    figures = {
        "ready s": ready,
        "ready CPU s": cpu,
        "first token s": first,
        "private MB": private_mb(),
    }
    del model, tokenizer
    calls = []
    for _ in range(1 if kind == "on-load" else 15):
        begin = time.perf_counter()
        load_with(loader, kind, folder)
        calls.append(time.perf_counter() - begin)
    print(json.dumps({**figures, "load call s": statistics.median(calls)}))


def only_import(kind: str) -> None:
    """In a fresh process: import what transformers needs, without garbage collection."""
    import gc

    gc.disable()
    import torch  # noqa: F401 # timed
    from transformers import AutoTokenizer, LlamaForCausalLM  # noqa: F401 # as above

    if kind == "nf4":
        import bitsandbytes  # noqa: F401 # as above
    ready = time.time() - float(os.environ["STARTED"])
    print(json.dumps({"ready s": ready, "ready CPU s": time.process_time()}))


def private_mb() -> float:
    """Memory private to this process: without mapped pages shared with the page cache.

    Returns freed memory to the system first, whose amount varies by half from run to run.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    total = 0
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Dirty", "Private_Hugetlb")):
            total += int(line.split()[1])
    return total / 1000


def run_child(loader: str, kind: str, folder: Path, home: str) -> dict[str, float]:
    env = {
        **os.environ,
        "MDL_HOME": home,
        "HF_HOME": home,
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "STARTED": str(time.time()),
    }
    command = [sys.executable, "-m", "benchmarks.loading", "--child", loader, kind, str(folder)]
    done = subprocess.run(
        command, env=env, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def drop_pages(folder: Path) -> None:
    """Drop the folder's files from the page cache, so that they are read from disk."""
    for path in folder.iterdir():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def compare(
    cold: bool, repeats: int, models: tuple[Path, Path], home: str, kinds: list[str]
) -> None:
    """Print the medians of both loaders and their ratio."""
    folders = {"bf16": models[0], "nf4": models[1], "on-load": models[0]}
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(repeats):
        for kind in kinds:
            for loader in LOADERS if cold or kind == "on-load" else (*LOADERS, "imports"):
                if cold:
                    drop_pages(folders[kind])
                figures = run_child(loader, kind, folders[kind], home)
                found.setdefault((kind, loader), []).append(figures)
    print(f"\n{'cold' if cold else 'warm'} page cache, {repeats} runs each, medians")
    print(f"{'':10}{'':16}{'transformers':>14}{'mdl':>10}{'ratio':>8}")
    for kind in kinds:
        for name in found[(kind, "mdl")][0]:
            theirs, ours = (
                statistics.median(f[name] for f in found[(kind, loader)]) for loader in LOADERS
            )
            print(f"{kind:10}{name:16}{theirs:>14.3f}{ours:>10.3f}{theirs / ours:>8.2f}")
            if name in found.get((kind, "imports"), [{}])[0]:
                least = statistics.median(f[name] for f in found[(kind, "imports")])
                print(f"{kind:10}{'  imports alone':16}{'':14}{least:>10.3f}{theirs / least:>8.2f}")


def second_load(repeats: int, models: tuple[Path, Path], home: str) -> None:
    """Compare later 4-bit loads, from the local copy, with a prequantized checkpoint."""
    from tests.hub import LoopbackHub

    code = (
        "import json, time, mdl\n"
        "first = mdl.load('Org/Llama', load_in_4bit=True).report.seconds\n"
        "def call(*a, **k):\n"
        "    begin = time.perf_counter(); mdl.load(*a, **k); return time.perf_counter() - begin\n"
        "call('Org/Llama', load_in_4bit=True)\n"
        f"pairs = [(call('Org/Llama', load_in_4bit=True), call({str(models[1])!r}, "
        f"load_in_4bit=True)) for _ in range({repeats})]\n"
        "print(json.dumps([first['build'], *map(sorted, zip(*pairs))]))\n"
    )
    with LoopbackHub() as hub, tempfile.TemporaryDirectory(dir=CACHE) as fresh:
        hub.add_repo("Org/Llama", folder=models[0])
        env = {
            **os.environ,
            "MDL_HOME": fresh,
            "HF_HOME": fresh,
            "HF_ENDPOINT": hub.endpoint,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
        }
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=env,
            check=True,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    build, again, stored = json.loads(done.stdout.splitlines()[-1])
    ours, plain = statistics.median(again), statistics.median(stored)
    print(
        f"\nquantize once: first build {build:.2f} s, then {ours:.3f} s a load call; "
        f"a prequantized folder {plain:.3f} s; ratio {ours / plain:.2f}"
    )


def count_requests(home: str) -> None:
    """Print the Hub requests of a load with everything in the cache, by name and by commit."""
    from tests.hub import LoopbackHub
    from tests.loader.tiny import save_model

    theirs = (
        "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; "
        "M.from_pretrained('Org/Name'{r}); T.from_pretrained('Org/Name'{r})"
    )
    ours = "import mdl; mdl.load('Org/Name', use_exact_model_name=True{r})"
    print(f"\nHub requests with everything cached{'':13}{'transformers':>14}{'mdl':>6}")
    with LoopbackHub() as hub, tempfile.TemporaryDirectory() as folder:
        hub.add_repo("Org/Name", folder=save_model("llama", Path(folder)))
        commit = hub.repos["Org/Name"].head().id
        for label, pin in (("by name", ""), ("by commit", f", revision={commit!r}")):
            counts = []
            for code in (theirs, ours):
                with tempfile.TemporaryDirectory() as fresh:
                    env = {
                        **os.environ,
                        "MDL_HOME": fresh,
                        "HF_HOME": fresh,
                        "HF_ENDPOINT": hub.endpoint,
                        "HF_HUB_DISABLE_TELEMETRY": "1",
                        "HF_HUB_DISABLE_XET": "1",
                    }
                    for _ in range(2):
                        hub.clear_requests()
                        subprocess.run(
                            [sys.executable, "-c", code.format(r=pin)],
                            env=env,
                            check=True,
                            stderr=subprocess.DEVNULL,
                        )
                    counts.append(len(hub.requests))
            print(f"{label:48}{counts[0]:>14}{counts[1]:>6}")


def read_text() -> None:
    """Perplexity of the real SmolLM2 on 1024 tokens of the licence, by format and loader."""
    import torch
    import transformers

    from demo.smollm2 import make

    folder = str(make())
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = (Path(__file__).resolve().parent.parent / "LICENSE").read_text()
    ids = tokenizer(text, return_tensors="pt")["input_ids"][:, :1024]
    print(f"\nperplexity, SmolLM2-135M, 1024 tokens{'':10}{'transformers':>14}{'mdl':>10}")
    for kind, label in (("bf16", "exact"), ("on-load", "4-bit")):
        found = []
        for loader in LOADERS:
            model, _ = load_with(loader, kind, folder)
            with torch.inference_mode():
                found.append(float(torch.exp(model(ids, labels=ids).loss)))
        print(f"{label:47}{found[0]:>14.4f}{found[1]:>10.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cells", default="warm,cold,once,requests,text")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--child", nargs=3, metavar=("LOADER", "KIND", "FOLDER"))
    arguments = parser.parse_args()
    if arguments.child:
        loader, kind, folder = arguments.child
        return only_import(kind) if loader == "imports" else child(loader, kind, folder)
    cells, kinds = arguments.cells.split(","), arguments.kinds.split(",")
    if "text" in cells:
        read_text()
    if cells == ["text"]:
        return None
    models = make_models(arguments.small)
    load = f"{os.getloadavg()[0]:.1f}"
    print(
        f"{platform.machine()}, {os.cpu_count()} cores (load before: {load}), "
        f"Python {platform.python_version()}"
    )
    with tempfile.TemporaryDirectory() as home:
        for cell in ("warm", "cold"):
            if cell in cells:
                compare(cell == "cold", arguments.repeats, models, home, kinds)
        if "once" in cells:
            second_load(arguments.repeats, models, home)
        if "requests" in cells:
            count_requests(home)
    return None


if __name__ == "__main__":
    main()
