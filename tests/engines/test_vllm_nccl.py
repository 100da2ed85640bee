"""What engine.transfer=nccl sends, unpacked by vLLM's own weight-transfer engine, without NCCL and without a GPU.

Skipped without `make vllm`.
"""

import json
import subprocess
from pathlib import Path

import cli
import pytest
import torch
from language_models import made, moved
from safetensors.torch import load_file, save_file

from selfplay import serve
from selfplay.engines.server import nccl
from selfplay.models import checkpoints

PYTHON = cli.ROOT / serve.FOLDER / "bin" / "python"
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="vLLM is not installed; install it with: make vllm"),
]
WORKER = """
import json, sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
import torch
from safetensors.torch import load_file, save_file
from vllm.distributed.weight_transfer import nccl_engine, packed_tensor

folder = Path(sys.argv[1])
told, sent = json.loads((folder / "told.json").read_text()), load_file(folder / "sent.safetensors")
stream = SimpleNamespace(synchronize=lambda: None)
packed_tensor._get_streams = lambda _, count: (stream,) * count
torch.cuda.stream = lambda _: nullcontext()
torch.accelerator.current_device_index = lambda: 0
places, found, joined = iter(range(len(sent))), {}, []

class Group:
    def broadcast(self, values, src):
        assert src == 0 and values.shape == sent[f"{(place := next(places)):04}"].shape
        values.copy_(sent[f"{place:04}"])

def join(info, parallel):
    joined.append([info.rank_offset, info.world_size, list(info.nccl_unique_id_bytes)])
    return Group()

nccl_engine.worker_init_process_group = join
engine = nccl_engine.NCCLWeightTransferEngine.__new__(nccl_engine.NCCLWeightTransferEngine)
engine.parallel_config, engine.device = None, torch.device("cpu")
engine.model = SimpleNamespace(load_weights=lambda pairs: found.update({n: v.clone() for n, v in pairs}))
engine.init_transfer_engine(engine.parse_init_info(told["init"]))
engine.receive_weights(engine.parse_update_info(told["update"]))
assert next(places, None) is None, "buckets are left"
save_file(found, folder / "found.safetensors")
(folder / "joined.json").write_text(json.dumps(joined))
"""


@pytest.mark.parametrize("size", [1, 200_000, 2**28])
def test_vllm_unpacks_what_is_sent(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nccl, "BUCKET", size)
    policy, unique_id = made(), bytes(range(128))
    moved(policy, 1)
    state = checkpoints.published(policy.model)
    state["half"] = torch.randn(3, 5).t().to(torch.bfloat16)
    told = {"init": nccl.init_info(3, 7, unique_id), "update": nccl.update_info(state)}
    (tmp_path / "told.json").write_text(json.dumps(told))
    sent = {f"{place:04}": bucket.clone() for place, bucket in enumerate(nccl.buckets(state.values(), size))}
    save_file(sent, tmp_path / "sent.safetensors")
    done = subprocess.run([PYTHON, "-I", "-c", WORKER, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = load_file(tmp_path / "found.safetensors")
    assert found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)
    assert json.loads((tmp_path / "joined.json").read_text()) == [[3, 7, list(unique_id)]]
