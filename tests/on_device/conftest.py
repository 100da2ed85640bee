"""These tests run on the device that DEVICE names: `DEVICE=cuda pytest tests/on_device`. Without it none is collected;
tests/test_other_device.py then runs them on the pretend device, in a process of its own."""

import os

DEVICE = os.environ.get("DEVICE")
collect_ignore_glob = [] if DEVICE else ["test_*.py"]
if DEVICE == "pretend":
    import pretend  # noqa: F401  (registers the device)
