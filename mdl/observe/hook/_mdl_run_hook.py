"""What a Python process below `mdl run` reports: the model files it opens, by the paths it
gives, and the repositories it asks the Hub for.

It runs inside other people's programs, of any Python from 3.8 on: it imports only what every
interpreter has built in, changes nothing, and lets the exceptions of signal handlers pass. An
audit hook costs every `open` of a process, so it waits for the first library that reads models.
"""

import os
import sys
from time import sleep, time

TYPE_CHECKING = False  # importing `typing` takes longer than all the rest
if TYPE_CHECKING:
    from typing import Any

_LIBRARIES = {
    "huggingface_hub", "safetensors", "tokenizers", "transformers", "torch", "gguf", "llama_cpp",
    "ctranslate2", "onnxruntime", "openvino", "mlx", "tensorflow", "jax", "keras", "vllm",
    "diffusers", "sentence_transformers",
}  # fmt: skip
_OF_MODELS = ("/config.json", "/adapter_config.json", "/model_index.json", "/modules.json",
              ".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt", ".onnx")  # fmt: skip
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_MOST_REMEMBERED = 50_000
_HUB = "huggingface_hub."
_HUB_HTTP = "huggingface_hub/utils/_http.py"
_CHECKS_RESPONSES = "hf_raise_for_status"
_OFFLINE = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
_PATIENCE = 20  # times a millisecond
_MONITORS = (4, 3)  # of sys.monitoring's tools, those that have no name


def wait_for_libraries() -> None:
    """Report this process's own cache roots, and from the import of the first library that reads
    models on, what it opens.
    """
    folders = os.environ.get("MDL_RUN")
    if folders:
        sender = Sender(folders.split(os.pathsep))
        sender.send_new_roots()
        sys.meta_path.insert(0, _Waiter(sender))


class _Waiter:
    """A finder that finds nothing and notices which modules are imported."""

    def __init__(self, sender: "Sender") -> None:
        self._sender = sender

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name in _LIBRARIES and self in sys.meta_path:
            sys.meta_path.remove(self)
            self._sender.send_new_roots()  # the program may have set the variables itself
            Hook(self._sender.send, self._sender.roots()).install()


def cache_roots(env: "Any") -> "list[str]":
    """The cache roots that an environment names, in the layout of the Hub's cache."""
    home = env.get("HF_HOME")
    if not home:
        home = os.path.join(env.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    root = env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE") or home + "/hub"
    more = (env.get("TRANSFORMERS_CACHE"), env.get("SENTENCE_TRANSFORMERS_HOME"))
    return [os.path.abspath(os.path.expanduser(each)) for each in (root, *more) if each]


class Sender:
    """Files in which a process reports to its runs what it does, one event a file."""

    def __init__(self, folders: "list[str]") -> None:
        self._folders = folders
        self._number = 0
        self._patience = 3

    def roots(self) -> "list[str]":
        """The cache roots that are watched already."""
        try:
            with open(f"{self._folders[0]}/roots", errors="surrogateescape") as file:
                return file.read().split("\0")
        except (OSError, IndexError):
            return []

    def send_new_roots(self) -> None:
        """Have this environment's cache roots watched, before anything below them is opened."""
        known = self.roots()
        for root in cache_roots(os.environ):
            if root not in known:
                self.send("root", root, wait=True)

    def send(self, kind: str, *fields: str, wait: bool = False) -> None:
        """Tell something; `wait`, for a moment, until it is heard: before a file is opened."""
        words = getattr(sys, "orig_argv", None) or getattr(sys, "argv", [])
        text = "\0".join([kind, repr(time()), str(os.getpid()), " ".join(words)[:500], *fields])
        for folder in list(self._folders):
            self._number += 1
            path = f"{folder}/{os.getpid()}-{self._number}"
            try:
                fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                try:
                    os.write(fd, text.encode("utf-8", "surrogateescape"))
                finally:
                    os.close(fd)
            except OSError as error:
                if error.errno is None:  # raised by a signal's handler
                    raise
                self._folders.remove(folder)  # that run is over
                continue
            if wait and self._patience:
                self._wait(path)

    def _wait(self, path: str) -> None:
        for _ in range(_PATIENCE):
            if not os.path.exists(path):
                return
            sleep(0.001)
        self._patience -= 1


class Hook:
    """An audit hook, and from Python 3.12 on a look at huggingface_hub's responses.

    Args:
        send: called with `file` (path), `folder` (path), `asked` (type, repository, revision) and
            `response` (address, status).
        roots: cache roots that are watched; of others `send` is told with `wait=True`.
    """

    def __init__(self, send: "Any", roots: "list[str]") -> None:
        self._send = send
        self._roots = tuple(f"{root}/" for root in roots if root)
        self._known: "set[object]" = set()
        self._monitor: "int | None" = None
        self.on = True

    def install(self) -> None:
        """Begin; an audit hook cannot be removed."""
        known, look, find = self._known, self._look, self._find_responses
        connects = sys.version_info < (3, 12)

        def hook(event: str, args: "Any") -> None:
            if event == "open":
                path = args[0]
                if path.__class__ is str:
                    # The folder and the end of the name: `config.json` is told apart from others.
                    key = path[: path.rfind("/") + 1] + path[-5:]
                    if key not in known:
                        look(path, key, args[2])
            elif connects:
                if event == "socket.connect":
                    self._tell_asked()
            elif event == "exec" and self._monitor is None:
                find(args[0])

        http = sys.modules.get(f"{_HUB}utils._http")
        if http is not None:
            self._monitor_code(getattr(getattr(http, _CHECKS_RESPONSES, None), "__code__", None))
        sys.addaudithook(hook)

    def _look(self, path: str, key: str, flags: object) -> None:
        if not self.on or (isinstance(flags, int) and flags & _WRITES):
            return
        if len(self._known) > _MOST_REMEMBERED:
            self._known.clear()
        if not path.startswith("/"):
            try:
                path = os.path.join(os.getcwd(), path)
            except FileNotFoundError:  # the working directory was deleted
                return
            key = os.path.dirname(path) + "/" + path[-5:]
            if key in self._known:
                return
        if "s--" in path and ("/blobs/" in path or "/snapshots/" in path):
            self._known.add(key)
            self._send("file", path, wait=not path.startswith(self._roots))
        elif path.endswith(_OF_MODELS):
            self._known.add(key)
            self._send("folder", path, wait=True)
        elif path.endswith("/token"):  # it goes into the next request's head
            self._tell_asked()
        elif not path.endswith(".json"):
            self._known.add(key)

    def _tell_asked(self) -> None:
        """Tell for which repository huggingface_hub is at work, as its functions' arguments say."""
        frame: "Any" = sys._getframe(2)
        asked = None
        while frame is not None:
            module = frame.f_globals.get("__name__", "")
            if module.startswith(_HUB) and "repo_id" in frame.f_code.co_varnames:
                asked = frame.f_locals
            frame = frame.f_back
        if self.on and not _OFFLINE and asked is not None and isinstance(asked.get("repo_id"), str):
            fields = tuple(str(asked.get(n) or "") for n in ("repo_type", "repo_id", "revision"))
            if fields not in self._known:
                self._known.add(fields)
                self._send("asked", *fields)

    def _find_responses(self, code: "Any") -> None:
        if getattr(code, "co_filename", "").replace("\\", "/").endswith(_HUB_HTTP):
            for constant in code.co_consts:
                if getattr(constant, "co_name", "") == _CHECKS_RESPONSES:
                    self._monitor_code(constant)

    def _monitor_code(self, code: object) -> None:
        """Be called when that function begins (PEP 669); it runs as it would."""
        monitoring = getattr(sys, "monitoring", None)
        if monitoring is None or code is None:
            return
        for tool in _MONITORS:
            if monitoring.get_tool(tool) is None:
                monitoring.use_tool_id(tool, "mdl run")
                begins = monitoring.events.PY_START
                monitoring.register_callback(tool, begins, self._tell_response)
                monitoring.set_local_events(tool, code, begins)
                self._monitor = tool
                return

    def _tell_response(self, code: object, offset: int) -> None:
        response: "Any" = sys._getframe(1).f_locals.get("response")
        try:
            asked = (response.history or [response])[0].url
            fields = (str(asked).partition("?")[0], str(response.status_code))
        except (AttributeError, RuntimeError, TypeError):  # a response of someone else's making
            return
        if self.on and fields not in self._known:
            self._known.add(fields)
            self._send("response", *fields)

    def listen(self) -> None:
        """Tell everything anew."""
        self._known.clear()
        self.on = True

    def silence(self) -> None:
        """Tell nothing."""
        self.on = False
