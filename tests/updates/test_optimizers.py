"""The default optimizer is PyTorch's AdamW, and any other of PyTorch's takes its place."""

import cli
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.nn import Parameter

from selfplay.updates.optimizers import adamw


def test_it_is_adamw_in_one_pass() -> None:
    torch.manual_seed(0)
    start = torch.randn(5, 3)
    ours, plain = Parameter(start.clone()), Parameter(start.clone())
    options = {"lr": 1e-2, "weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-6}
    optimizers = adamw([ours], **options), torch.optim.AdamW([plain], **options, fused=False)  # type: ignore[arg-type]
    assert optimizers[0].param_groups[0]["fused"] is True
    for _ in range(5):
        ours.grad = torch.randn(5, 3)
        plain.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours, plain, atol=1e-6, rtol=0)
    assert float((ours.detach() - start).abs().max()) > 0.01


@pytest.mark.parametrize("choice", cli.choices("update"))
@pytest.mark.parametrize("other", ["RMSprop", "SGD", "Adam"])
def test_another_takes_its_place(choice: str, other: str) -> None:
    where = "update.parts.sft" if choice == "update=stages" else "update"  # each of its rules has one
    cfg = OmegaConf.select(
        cli.composed(choice, f"{where}.optimizer._target_=torch.optim.{other}"), f"{where}.optimizer"
    )
    weight = Parameter(torch.ones(2))
    optimizer = instantiate(cfg)([weight])
    assert type(optimizer) is getattr(torch.optim, other)
    weight.sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert bool((weight < 1).all())


def test_options_of_the_command_line_reach_it() -> None:
    cfg = cli.composed("update=lsp", "+update.optimizer.betas=[0.5,0.9]", "update.optimizer.lr=1e-3")["update"]
    group = instantiate(cfg["optimizer"])([Parameter(torch.ones(2))]).param_groups[0]
    assert (group["betas"], group["lr"]) == ((0.5, 0.9), 1e-3)
    assert type(group["betas"]) is tuple, "a checkpoint holds it"
