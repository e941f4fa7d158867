"""Watch a run: which models a command, or a part of a program, really opens.

`watcher` (inotify), `processes` (/proc) and `hook` with `messages` (inside Python) see; `observer`
puts what they see into `sightings`; `describe` and `compose` make a `report` of it, and `verdict`
holds that to an `expectation`. `supervise` runs the command, `session` ties it all together.
"""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.observe.command import Output, run_command
    from mdl.observe.in_process import Watch, watch
    from mdl.observe.magic import load_ipython_extension
    from mdl.observe.report import FolderLoad, Load, OpenedFile, RunReport, read_run_report
    from mdl.observe.session import Requirements, read_requirements

__getattr__ = door(
    __name__,
    {
        "command": "Output run_command",
        "in_process": "Watch watch",
        "magic": "load_ipython_extension",
        "report": "FolderLoad Load OpenedFile RunReport read_run_report",
        "session": "Requirements read_requirements",
    },
)
