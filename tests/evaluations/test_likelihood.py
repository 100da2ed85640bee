"""The likelihood of right answers: equal to a plain forward pass, after the weights have moved."""

from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import cli
import pytest
import torch
from language_models import made, moved

from selfplay.core import Ask, user
from selfplay.evaluations.likelihood import Likelihood
from selfplay.tasks.tiny_world import TinyWorld


def test_it_is_that_of_a_plain_forward_pass() -> None:
    policy, task = made(max_tokens=32), TinyWorld(per_cell=1)
    moved(policy, 3)
    found = Likelihood(task, batch_size=7)(SimpleNamespace(opponent=SimpleNamespace(main=policy)))  # type: ignore[arg-type]
    plain, families = [], {}
    for item in task.held_out():
        reply = policy.encode_reply(Ask("solver", user(item.question)), item.answer)
        ids = torch.tensor([[*reply.prompt_ids, *reply.reply_ids]])
        with torch.no_grad():
            logprobs = policy.model(ids).logits[0].log_softmax(-1)
        start, end = len(reply.prompt_ids), ids.shape[1]
        assert end - start == len(reply.reply_ids) and reply.reply_ids[-1] in policy.stop_ids
        plain.append(-float(logprobs[range(start - 1, end - 1), ids[0, start:]].mean()))
        families.setdefault(item.labels["families"], []).append(plain[-1])
    assert found["nll"] == pytest.approx(fmean(plain), abs=1e-5) and found["questions"] == 48
    assert found["families"] == pytest.approx({name: fmean(cell) for name, cell in families.items()}, abs=1e-5)
    low, high = found["interval"]
    assert low < found["nll"] < high


def test_a_run_reports_it_beside_accuracy(tmp_path: Path) -> None:
    more = ("+eval@extra_evals.likelihood=likelihood", "eval=heldout", "task.per_cell=1", "eval.every=2")
    run = cli.finished(tmp_path / "run", *cli.SMALL, *more, "player.max_tokens=32")
    first, last = (line["eval"]["likelihood"]["nll"] for line in cli.metrics(run) if "eval" in line)
    assert cli.summary(run)["eval"]["gain"]["likelihood"]["gain"] == pytest.approx(last - first) and first != last
