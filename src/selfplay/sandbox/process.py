"""The main program of each process of the sandbox: isolate it, then run code or tests. Runs inside the sandbox."""

import json
import os
from typing import Any

from selfplay.sandbox import child, confine, judge, namespaces, seccomp


def main(job: dict[str, Any]) -> None:
    """Do a job; what is told goes to stdout as lines of JSON, the first of them once it is isolated, or cannot be."""
    out = os.dup(1)

    def tell(what: dict[str, object]) -> None:
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
        tell({"failed": error.strerror or str(error)})
        return
    tell({"started": True})
    (judge if "tests" in job else child).run(job, tell)


def _isolate(job: dict[str, Any]) -> None:
    """Everything but the limits of the process that runs code.

    Raises:
        OSError: the kernel does not allow it.
    """
    if job["isolation"] == "namespaces":
        namespaces.enter(job)
    confine.own_folder(job["file_megabytes"])
    if os.getuid() == 0:
        confine.become_nobody()
        confine.call("unshare", confine.NEWUSER)  # where its processes are counted apart from those of others
    confine.drop_privileges()
    tried = os.fork()
    if not tried:
        try:
            seccomp.allow_computing()
        except OSError:
            os._exit(1)
        os._exit(0)
    if os.waitpid(tried, 0)[1]:
        raise OSError(0, "it has no filters of system calls for this machine")
