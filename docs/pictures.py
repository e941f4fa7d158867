"""Makes the pictures of README and docs/: `python docs/pictures.py` (needs Chromium).

A cache with the names and sizes of well-known models, its files sparse, is drawn by
`mdl cache du --plot` and by the page of `mdl serve`; no byte comes from the Hub.
"""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

PICTURES = Path(__file__).parent / "pictures"
# Name, size in GB, days since it was last used.
MODELS = (
    ("meta-llama/Llama-3.1-8B-Instruct", 16.1, 2),
    ("unsloth/Llama-3.1-8B-Instruct-unsloth-bnb-4bit", 5.7, 0),
    ("unsloth/llama-3.1-8b-instruct-unsloth-bnb-4bit", 5.7, 41),
    ("Qwen/Qwen2.5-0.5B-Instruct", 1.0, 0),
    ("Qwen/Qwen3-8B", 16.4, 9),
    ("Qwen/Qwen3-32B", 65.5, 130),
    ("Qwen/Qwen2.5-VL-7B-Instruct", 16.6, 60),
    ("google/gemma-3-12b-it", 24.4, 25),
    ("google/gemma-3-1b-it", 2.0, 3),
    ("mistralai/Mistral-7B-Instruct-v0.3", 14.5, 210),
    ("mistralai/Pixtral-12B-2409", 25.4, 300),
    ("microsoft/phi-4", 29.3, 95),
    ("HuggingFaceTB/SmolLM2-135M-Instruct", 0.3, 1),
    ("openai/whisper-large-v3", 3.1, 75),
    ("BAAI/bge-m3", 2.3, 14),
    ("sentence-transformers/all-MiniLM-L6-v2", 0.1, 5),
)
CONFIG = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32,
          "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256}  # fmt: skip
DATASETS = (("HuggingFaceFW/fineweb-edu", 28.0, 50), ("open-r1/OpenR1-Math-220k", 4.4, 12))


def add(root: Path, kind: str, name: str, size: float, days: int) -> None:
    """One repository in Hugging Face's layout, with a file a 5 GB."""
    folder = root / f"{kind}s--{name.replace('/', '--')}"
    commit = hashlib.sha1(name.lower().encode()).hexdigest()
    snapshot = folder / "snapshots" / commit
    for made in (folder / "blobs", folder / "refs", snapshot):
        made.mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    left, parts = int(size * 1e9), max(1, round(size / 5))
    used = time.time() - days * 86400
    for part in range(parts):
        # Two spellings of one name hold the same bytes.
        blob = folder / "blobs" / hashlib.sha256(f"{name.lower()}/{part}".encode()).hexdigest()
        with blob.open("wb") as file:
            file.truncate(left // parts)
        os.utime(blob, (used, used))
        ending = "safetensors" if kind == "model" else "parquet"
        (snapshot / f"model-{part + 1:05}-of-{parts:05}.{ending}").symlink_to(
            f"../../blobs/{blob.name}"
        )
    if kind == "model":
        (snapshot / "config.json").write_text(
            json.dumps(CONFIG if "3.1-8b" in name.lower() else {})
        )
        os.utime(snapshot / "config.json", (used, used))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def photograph(env: dict[str, str]) -> None:
    """The page of a running service, as a reader of 1,200 pixels sees it."""
    port = free_port()
    address = f"http://127.0.0.1:{port}/"
    mdl = str(Path(sys.executable).parent / "mdl")
    serve = [mdl, "serve", "--port", str(port)]
    with subprocess.Popen(serve, env=env, stderr=subprocess.DEVNULL) as service:
        try:
            for _ in range(200):
                try:
                    urllib.request.urlopen(address, timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.1)
            chromium = shutil.which("chromium") or sys.exit("Chromium is not installed.")
            query = "?name=meta-llama/llama-3.1-8b-instruct&format=bnb-4bit"
            subprocess.run(
                [chromium, "--headless", "--no-sandbox", "--hide-scrollbars",
                 "--window-size=1200,2350", f"--screenshot={PICTURES / 'page.png'}",
                 address + query],
                check=True, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        finally:
            service.terminate()


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / ".cache" / "huggingface" / "hub"
        for model in MODELS:
            add(root, "model", *model)
        for dataset in DATASETS:
            add(root, "dataset", *dataset)
        env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "MDL_"))} | {
            "HOME": scratch,
            "MDL_HOME": str(Path(scratch) / "mdl"),
            "HF_HUB_OFFLINE": "1",
        }
        mdl = str(Path(sys.executable).parent / "mdl")
        plot = [mdl, "cache", "du", "--plot", str(PICTURES / "cache.svg")]
        subprocess.run(plot, env=env, check=True, stdout=subprocess.DEVNULL)
        drawn = PICTURES / "cache.svg"
        drawn.write_text(drawn.read_text().replace(scratch, "~"))  # its title names the cache
        photograph(env)


if __name__ == "__main__":
    main()
