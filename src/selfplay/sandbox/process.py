"""The main program of each sandbox process: isolate it, then run code or tests. Runs inside the sandbox."""

import json
import os
from typing import Any

from selfplay.sandbox import child, confine, judge, namespaces, seccomp


def main(job: dict[str, Any]) -> None:
    """Run a job; report to stdout in JSON lines, first whether isolation succeeded."""
    out = os.dup(1)

    def report(what: dict[str, object]) -> None:
        os.write(out, json.dumps(what).encode() + b"\n")

    try:
        if job["isolation"] == "none":
            confine.die_with_starter()
        else:
            _isolate(job)
        if "tests" in job:
            judge.prepare()
            confine.limit(job)
            if job["isolation"] != "none":
                seccomp.allow_computing()
    except OSError as error:
        report({"failed": error.strerror or str(error)})
        return
    report({"started": True})
    (judge if "tests" in job else child).run(job, report)


def _isolate(job: dict[str, Any]) -> None:
    """Isolate this process; the process that runs code sets its limits later.

    Raises:
        OSError: the kernel does not allow it, or seccomp filters are unavailable.
    """
    if job["isolation"] == "namespaces":
        namespaces.enter(job)
    confine.own_folder(job["file_megabytes"])
    if os.getuid() == 0:
        confine.become_nobody()
        confine.call("unshare", confine.NEWUSER)  # so that its processes are counted separately
    confine.drop_privileges()
    tried = os.fork()
    if not tried:
        try:
            seccomp.allow_computing()
        except OSError:
            os._exit(1)
        os._exit(0)
    if os.waitpid(tried, 0)[1]:
        raise OSError(0, "seccomp filters are not available on this machine")
