"""A stand-in for the Python of an environment with vLLM: `python -I -c PROBE` and `python -I vllm_process.py FLAGS`.

It prints its flags and the variables that were set for it, then answers every GET until its standard input is closed.
STAND_IN in its environment changes that: with "double" it answers as `servers.Double` or
`reward_servers.RewardServer`, with "fails" it ends at once.
"""

import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

SHOWN = ("VLLM_", "CUDA_VISIBLE_DEVICES", "PATH")


def written(folder: Path, gpus: int = 0) -> Path:
    """A file that can be run in place of a Python: this script, with that many GPUs."""
    file = folder / "python"
    file.write_text(f"#!/bin/sh\nexport GPUS={gpus}\nexec '{sys.executable}' '{__file__}' \"$@\"\n")
    file.chmod(0o755)
    return file


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(" ".join(sys.argv[1:]).encode())  # among them the names of the model

    def log_message(self, *_: object) -> None:
        return


def main() -> None:
    behaviour = os.environ.get("STAND_IN", "")
    if sys.argv[2] == "-c":
        print(os.environ["GPUS"])
        return
    print(*sys.argv[1:], flush=True)
    print(*(f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith(SHOWN)), flush=True)
    if behaviour == "fails":
        sys.exit("(EngineCore pid=1) ERROR [core.py:1] ValueError: no room\nand more")
    port = int(sys.argv[sys.argv.index("--port") + 1])
    if behaviour != "double":
        Thread(target=ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever, daemon=True).start()
        until_input_ends()
        return
    from reward_servers import RewardServer
    from servers import Double, serving

    at = sys.argv.index("--served-model-name")
    server = RewardServer() if "pooling" in sys.argv else Double()
    server.names = tuple(sys.argv[at + 1 : at + 3])
    with serving(server, port):
        until_input_ends()


def until_input_ends() -> None:
    while os.read(0, 1):
        pass


if __name__ == "__main__":
    main()
