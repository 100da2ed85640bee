"""lm-evaluation-harness opens checkpoints as they are, and finds what eval=heldout found."""

import json
from pathlib import Path
from typing import Any

import cli
import pytest
from configs import config

from selfplay.building import make

TASK = """
task: tiny_world
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: [], max_gen_toks: 24, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
SIZES = ("task.per_cell=1", "episodes=4", "game.answers=4", "player.max_tokens=24", "steps=3")


def by_harness(folder: Path, model: str) -> list[bool]:
    """Which of the held-out questions lm_eval finds rightly answered, in their order."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    task = make(config("task.per_cell=1").task, "task")
    rows = [{"question": item.question, "answer": item.answer} for item in task.held_out()]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "tiny_world.yaml").write_text(TASK.format(file=folder / "questions.jsonl"))
    found: Any = simple_evaluate(
        model="hf",
        model_args=model,
        tasks=["tiny_world"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        apply_chat_template=True,
        batch_size=16,
        device="cpu",
        bootstrap_iters=0,
        log_samples=True,
    )
    samples = sorted(found["samples"]["tiny_world"], key=lambda sample: sample["doc_id"])
    return [sample["exact_match"] == 1.0 for sample in samples]


@pytest.mark.slow
@pytest.mark.parametrize("player", ["tiny", "tiny_lora"])
def test_a_checkpoint_is_scored_alike(player: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    run = cli.finished(
        tmp_path / "run", f"player={player}", "game=dataset", "reward=verifier", "update.optimizer.lr=0.003", *SIZES
    )
    path = run / "checkpoints" / "step-000003"
    base = config().player.path
    from selfplay.models.load import resolve

    model = f"pretrained={path}" if player == "tiny" else f"pretrained={resolve(base)},peft={path}"
    before, *_, after = (line["eval"]["correct"] for line in cli.metrics(run) if "eval" in line)
    assert before != after, "it has learnt something, so that the base model would be seen"
    assert "".join(str(int(right)) for right in by_harness(tmp_path, model)) == after
