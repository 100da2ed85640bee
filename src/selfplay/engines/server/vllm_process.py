"""vLLM's server with weights from folders: a script for vLLM's environment, in which selfplay is not installed.

    python -I vllm_process.py --model MODEL --weight-transfer-config '{"backend": "folder"}' ...

`selfplay serve` starts it. It registers the weight-transfer engine "folder": /update_weights names a folder, and every
worker loads the safetensors files there. The registration is at the top level because the processes that vLLM spawns
import this file again. The server ends when its standard input is closed, so it does not outlive who started it.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from runpy import run_module
from threading import Thread
from typing import Any

from safetensors import safe_open
from torch import Tensor
from torch.nn import Module
from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.platforms import current_platform


@dataclass
class InitInfo(WeightTransferInitInfo):  # type: ignore[misc]
    """Nothing has to be agreed on beforehand."""


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]
    """Where the weights are: a folder that `save_pretrained` wrote."""

    folder: str


class FolderEngine(WeightTransferEngine[InitInfo, UpdateInfo]):  # type: ignore[misc]
    """Loads weights in checkpoint format, layer by layer, from a folder that this machine can read."""

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        if current_platform.is_cpu():
            leave_base_rows_alone()

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        return

    def start_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: UpdateInfo) -> None:
        self.model.load_weights(tensors(Path(update_info.folder)))

    def finish_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)
        if current_platform.is_cpu():
            pack_heads(self.model)

    def shutdown(self) -> None:
        return


def tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """The names and values of all tensors in the safetensors files of a folder.

    Raises:
        FileNotFoundError: there is no such file.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no safetensors files in {folder}")
    for file in files:
        with safe_open(file, framework="pt") as held:
            for name in held.keys():  # noqa: SIM118  (not a mapping)
                yield name, held.get_tensor(name)


def pack_heads(model: Module) -> None:
    """Pack the matrices of heads anew, on processors.

    vLLM packs a matrix there when it loads it. A tied head is not loaded, so its packed copy would keep the old values.
    """
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            dispatch_cpu_unquantized_gemm(module, remove_weight=False)


def leave_base_rows_alone() -> None:
    """Let adapters change nothing in rows that have none, on processors.

    Their adapter has the index -1, which the operations there take as the last one's. 0 is added instead.
    """
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    for name in ("bgmv_expand", "bgmv_expand_slice"):
        fixed = without_base_rows(getattr(lora_ops, name))
        setattr(lora_ops, name, fixed)
        setattr(punica_cpu, name, fixed)


def without_base_rows(expand: Callable[..., None]) -> Callable[..., None]:
    """The operation y[row] += weights[indices[row]] x[row], with 0 for x[row] where the index is negative."""

    def expand_adapters(x: Tensor, weights: Tensor, y: Tensor, indices: Tensor, *more: Any, **named: Any) -> None:
        expand(x * (indices >= 0)[:, None], weights, y, indices, *more, **named)

    return expand_adapters


def end_with_input() -> None:
    """End this process when its standard input is closed."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=wait, daemon=True).start()


WeightTransferEngineFactory.register_engine("folder", FolderEngine)

if __name__ == "__main__":
    end_with_input()
    run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
