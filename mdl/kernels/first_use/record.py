"""What was found on one device with one set of versions, kept as a JSON file."""

import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mdl.kernels.first_use.verdict import Finding
from mdl.kernels.swap import Need
from mdl.version import __version__, installed_versions

log = logging.getLogger("mdl.kernels")
_FORMAT = 1
_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Identity:
    """A device and what runs on it. With any other of these, findings do not hold.

    driver: its version, or the CUDA version it supports where the system does not say.
    """

    device: str
    capability: str
    driver: str
    torch: str
    triton: str
    bitsandbytes: str
    mdl: str

    @property
    def file_name(self) -> str:
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        name = re.sub(r"[^A-Za-z0-9]+", "-", self.device).strip("-").lower()[:40] or "device"
        return f"{name}-{digest[:12]}.json"


@dataclass(frozen=True)
class Record:
    """The findings of one identity, by need."""

    identity: Identity
    findings: Mapping[Need, Finding]

    def with_findings(self, more: Iterable[Finding]) -> "Record":
        """This record and newer findings; only those that another try would repeat."""
        lasting = {one.need: one for one in more if one.lasting}
        return Record(self.identity, {**self.findings, **lasting})

    def to_json(self) -> dict[str, Any]:
        findings = [one.to_json() for one in self.findings.values()]
        return {"format": _FORMAT, "identity": asdict(self.identity), "findings": findings}

    @classmethod
    def from_json(cls, value: Any) -> "Record":
        """The record that `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: the value is something else.
        """
        if value["format"] != _FORMAT:
            raise ValueError(f"format {value['format']}")
        findings = [Finding.from_json(one) for one in value["findings"]]
        identity = Identity(**{name: str(text) for name, text in value["identity"].items()})
        return cls(identity, {one.need: one for one in findings})


def identity_of(device: torch.device) -> Identity:
    """The identity of a device of this machine."""
    versions = installed_versions("triton", "bitsandbytes")
    name, capability, driver = "CPU", "", ""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        name, capability = properties.name, f"{properties.major}.{properties.minor}"
        driver = _driver_version()
    return Identity(
        name,
        capability,
        driver,
        torch.__version__,
        versions.get("triton", ""),
        versions.get("bitsandbytes", ""),
        __version__,
    )


def _driver_version() -> str:
    try:
        found = re.search(r"\d+\.\d+(\.\d+)?", _DRIVER.read_text())
    except (OSError, UnicodeDecodeError):
        found = None
    if found is not None:
        return found[0]
    supported: Any = getattr(torch._C, "_cuda_getDriverVersion", None)
    return f"CUDA {supported()}" if supported is not None else ""


def folder_in(home: str | os.PathLike[str]) -> Path:
    """Where records are kept."""
    return Path(home) / "kernels"


def read_record(folder: Path, identity: Identity) -> Record:
    """What is known of an identity; nothing where the file is missing, damaged or of another."""
    path = folder / identity.file_name
    found = read_file(path)
    if found is None or found.identity != identity:
        if path.exists():
            log.warning("%s is not a record of this device; the kernels are checked again.", path)
        return Record(identity, {})
    return found


def read_file(path: Path) -> Record | None:
    """The record in a file; None where it is no record, or cannot be read."""
    try:
        return Record.from_json(json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def write_record(folder: Path, record: Record) -> bool:
    """Keep a record, whole or not at all. False, with a line in the log, where that fails."""
    path = folder / record.identity.file_name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, prefix=".record-")
        try:
            with os.fdopen(handle, "w") as stream:
                json.dump(record.to_json(), stream, indent=1)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        log.warning("What was found about the kernels could not be kept in %s: %s", path, error)
        return False
    return True
