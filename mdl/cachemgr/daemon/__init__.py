"""The process that keeps one cache root right: casings, budget, trash, last use."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.cachemgr.daemon.process import (
        daemon_status,
        read_log,
        run_daemon,
        start_daemon,
        stop_daemon,
    )
    from mdl.cachemgr.daemon.units import launchd_agent, place_of, systemd_unit

__getattr__ = door(
    __name__,
    {
        "process": "daemon_status read_log run_daemon start_daemon stop_daemon",
        "units": "launchd_agent place_of systemd_unit",
    },
)
