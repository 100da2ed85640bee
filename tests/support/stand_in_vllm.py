"""A stand-in for the Python of an environment with vLLM: `python -I -c PROBE` and `python -I vllm_process.py FLAGS`.

It prints its flags and the variables that were set for it, then answers as `servers.Double` until its standard input is
closed. STAND_IN in its environment changes that: "fails" ends it at once, "none" means that vLLM is not installed.
"""

import os
import sys
from pathlib import Path

SHOWN = ("VLLM_", "CUDA_VISIBLE_DEVICES", "PATH")


def written(folder: Path, gpus: int = 0) -> Path:
    """A file that can be run in place of a Python: this script, with that many GPUs."""
    file = folder / "python"
    file.write_text(f"#!/bin/sh\nexport GPUS={gpus}\nexec '{sys.executable}' '{__file__}' \"$@\"\n")
    file.chmod(0o755)
    return file


def main() -> None:
    behaviour = os.environ.get("STAND_IN", "")
    if sys.argv[2] == "-c":
        sys.exit("there is no module vllm" if behaviour == "none" else print(os.environ["GPUS"]))  # type: ignore[func-returns-value]
    print(*sys.argv[1:], flush=True)
    print(*(f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith(SHOWN)), flush=True)
    if behaviour == "fails":
        sys.exit("(EngineCore pid=1) ERROR [core.py:1] ValueError: no room\nand more")
    from servers import Double, serving

    with serving(Double(), int(sys.argv[sys.argv.index("--port") + 1])):
        while os.read(0, 1):
            pass


if __name__ == "__main__":
    main()
