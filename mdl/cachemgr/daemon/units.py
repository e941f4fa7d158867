"""A service of the system's: a systemd user unit, or a launchd agent, as text."""

import os
import sys
from pathlib import Path
from xml.sax.saxutils import escape

from mdl.settings import Settings

UNIT = "mdl-daemon.service"
AGENT = "io.github.mdl.daemon.plist"


def systemd_unit(settings: Settings, python: str = sys.executable) -> str:
    """A user unit: no network, no new privileges, no odd system calls.

    Nothing in it needs a namespace (ProtectSystem, PrivateTmp and their like do): in one, the
    daemon could not see in /proc which files a running load has open, and those win.
    """
    variables = "".join(
        f"Environment={_quoted(f'{name}={value}')}\n"
        for name, value in _variables(settings).items()
    )
    return f"""[Unit]
Description=mdl keeps the Hugging Face cache right

[Service]
Type=exec
ExecStart={_quoted(python)} -m mdl daemon run
{variables}Restart=on-failure
RestartSec=5
TimeoutStopSec=5
Nice=10
IOSchedulingClass=idle
MemoryMax=512M
UMask=0077
NoNewPrivileges=yes
RestrictAddressFamilies=AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
CapabilityBoundingSet=
SystemCallArchitectures=native
SystemCallFilter=@system-service

[Install]
WantedBy=default.target
"""


def launchd_agent(settings: Settings, python: str = sys.executable) -> str:
    """A launchd agent of the user's."""
    arguments = "".join(
        f"    <string>{escape(word)}</string>\n" for word in (python, "-m", "mdl", "daemon", "run")
    )
    environment = "".join(
        f"    <key>{key}</key><string>{escape(value)}</string>\n"
        for key, value in _variables(settings).items()
    )
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN"
  "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
  <key>Label</key><string>{AGENT.removesuffix(".plist")}</string>
  <key>ProgramArguments</key>
  <array>
{arguments}  </array>
  <key>EnvironmentVariables</key>
  <dict>
{environment}  </dict>
  <key>RunAtLoad</key><true/>
  <key>KeepAlive</key><dict><key>SuccessfulExit</key><false/></dict>
  <key>ProcessType</key><string>Background</string>
  <key>LowPriorityIO</key><true/>
</dict>
</plist>
"""


def _variables(settings: Settings) -> dict[str, str]:
    """The environment that makes the service find what its user's shell finds."""
    found = {"HF_HUB_CACHE": str(settings.cache_root), "MDL_HOME": str(settings.home)}
    if settings.config_file and Path(settings.config_file) != Path(settings.home, "config.toml"):
        found["MDL_CONFIG"] = str(Path(settings.config_file).absolute())
    return found


def place_of(kind: str, home: Path) -> Path:
    """Where the user's service manager looks for it."""
    if kind == "launchd":
        return home / "Library" / "LaunchAgents" / AGENT
    config = os.environ.get("XDG_CONFIG_HOME") or home / ".config"
    return Path(config, "systemd", "user", UNIT)


def _quoted(text: str) -> str:
    """A word of a unit file; % and $ mean something there."""
    safe = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{safe}"'
