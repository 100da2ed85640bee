"""A population of LoRA snapshots shares its base: fifty members cost little more memory than none."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from language_models import made
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from selfplay.core import Player
from selfplay.games.matrix import matrix_game
from selfplay.models.load import resolve
from selfplay.opponents.league import League
from selfplay.opponents.rules import uniform
from selfplay.players.language_model import LanguageModel
from selfplay.trainee import Trainee
from selfplay.updates.policy_gradient import PolicyGradient
from selfplay.updates.regularizers import Off

MEMBERS = 50


def big(folder: Path) -> Path:
    """A Llama of 34 M parameters with weights of chance, and the embedded model's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(resolve("asset:tiny"))
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 8}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, max_position_embeddings=512))
    assert 25e6 < sum(p.numel() for p in model.parameters()) < 40e6
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def player(folder: Path) -> LanguageModel:
    lora = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
    return made(path=str(folder), lora=lora, batch_size=8)


def league(learner: LanguageModel, members: int = MEMBERS) -> League:
    """The learner moved and snapshotted once a step, each time with the optimizer's state that a step leaves."""
    reference = learner.snapshot()
    update = PolicyGradient(
        policy=learner,
        reference=reference,
        roles=("row", "column"),
        optimizer=torch.optim.AdamW,
        regularizer=Off(),
        micro_batch=8,
    )
    opponent = League(
        {"row": "learner", "column": "learner"},
        {"learner": learner, "reference": reference},
        matrix_game(),
        {},
        uniform,
        every=1,
        latest=0.0,
        restart=False,
        exploit=0,
        matches=0,
        exact=False,
        memory=1.0,
        steps=members,
        seed=0,
    )
    trainee = Trainee(learner, reference, update)
    for step in range(1, members + 1):
        trainee.follow(opponent.before(step), opponent.main)
        for p in learner.parameters():
            p.data += 0.01 * step
        opponent.after(step, [])
    return opponent


def size(players: Iterable[Player]) -> int:
    """Bytes of the distinct tensors that the players hold."""
    tensors: list[torch.Tensor] = []
    for policy in players:
        assert isinstance(policy, LanguageModel)
        tensors += [*policy.model.parameters(), *policy.model.buffers(), *(policy.frozen_adapter or {}).values()]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def resident() -> int:
    """Bytes of memory that this process has in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_fifty_snapshots_share_their_base(tmp_path: Path) -> None:
    learner = player(big(tmp_path))
    alone = size([learner])
    opponent = league(learner)
    assert len(opponent.population) == MEMBERS + 1
    together = size([learner, *opponent.population.values()])
    adapter = sum(p.numel() * 4 for p in learner.parameters())
    assert together == alone + (MEMBERS + 1) * adapter  # nothing is shared that must not be
    assert together <= 1.5 * alone
    ask = [a for a in next(opponent.game.play()) if a.role == "row"]
    answers = {
        opponent.population[name].probabilities(ask)[0] for name in ("step-000000", "step-000025", "step-000050")
    }
    assert len(answers) == 3
    assert opponent.population["step-000050"].probabilities(ask) == learner.probabilities(ask)


MEASURE = """
import json, sys
from pathlib import Path
import test_memory as t
ask = lambda player: player.probabilities([a for a in next(t.matrix_game().play())])
learner = t.player(Path(sys.argv[1]))
t.league(learner, 1)
ask(learner)
before = t.resident()
opponent = t.league(learner)
for member in list(opponent.population.values())[::5]:
    ask(member)
print(json.dumps([before, t.resident(), len(opponent.population)]))
"""


PEAK = """
import json, re, sys
from pathlib import Path
import torch
from language_models import batch_of, made

def peak():  # not ru_maxrss, which begins with what the process that started this one held
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

def read(policy):
    with torch.no_grad():
        assert float((policy.logprobs(batch) - batch.logprobs).abs().max()) < 1e-3

lora = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"} if sys.argv[1] == "lora" else None
learner = made(path=sys.argv[2], lora=lora, max_tokens=8)
batch = batch_of(learner)
read(learner)
before = peak()
read(learner.snapshot())
print(json.dumps(peak() - before))
"""


def measured(script: str, *args: str) -> str:
    """The last line that a script prints in a process of its own, which imports what this one can."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", script, *args]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.splitlines()[-1]


def grown(kind: str, folder: Path) -> int:
    """Bytes by which a process's peak grows when a reference reads what the learner has read before.

    In one process: the peaks of two differ by up to 100 MB when the machine is busy.
    """
    return int(json.loads(measured(PEAK, kind, str(folder))))


@pytest.mark.slow
def test_an_adapters_reference_is_no_second_model(tmp_path: Path) -> None:
    """A full learner's reference holds the weights again, an adapter's does not."""
    folder = big(tmp_path)
    weights = (folder / "model.safetensors").stat().st_size
    assert weights > 1e8
    assert grown("lora", folder) < 0.1 * weights
    assert grown("full", folder) > 0.8 * weights


@pytest.mark.slow
def test_fifty_snapshots_in_resident_memory(tmp_path: Path) -> None:
    folder = big(tmp_path)
    before, after, members = json.loads(measured(MEASURE, str(folder)))
    assert members == MEMBERS + 1
    assert after / before <= 1.5
