"""The update is the paper: Language Self-Play (2509.07414), equations 2-5, transcribed with plain transformers."""

from collections.abc import Iterable
from statistics import fmean

import pytest
import torch
from configs import config
from language_models import perturb, plain_logprobs
from scripted import Fixed, Script
from torch import Tensor
from torch.nn import Parameter

from selfplay.building import make, make_later
from selfplay.core import Ask, Batch, Episode, Reply
from selfplay.players.language_model import LanguageModel
from selfplay.rollout import collate, play, score_and_pay

N, G, ALPHA, BETA = 3, 4, 0.7, 0.05
QUESTIONS = ("add 3 and 4", "sort cab", "how long is a river, and who would measure it?")
ANSWERS = (
    ("7", "8", "", "seven of them"),
    ("abc", "cab", "abc abc", "b"),
    ("5", "I cannot know", "5", "?"),
)
R = ((1.0, 0.0, -0.5, 0.25), (2.0, -1.0, 0.5, 0.5), (0.125, -0.75, 0.125, 1.5))
Q = ((7.0, 4.0, 0.0, 3.0), (6.0, 2.0, 1.0, 3.0), (1.0, 2.0, 1.0, 0.0))


class Capture(torch.optim.Optimizer):
    """An optimizer that keeps the gradients and changes nothing."""

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        super().__init__(parameters, {"lr": 1.0})
        self.gradients: list[Tensor] = []

    def step(self, closure: object = None) -> None:
        self.gradients = [p.grad.clone() for g in self.param_groups for p in g["params"]]


def turns_as_scripted(policy: LanguageModel) -> Script:
    """A player who says the texts above, with their tokens and their plain log-probabilities."""

    def say(ask: Ask) -> Reply:
        _, episode, turn = map(int, ask.key.split("/"))
        text = QUESTIONS[episode] if turn == 0 else ANSWERS[episode][turn - 1]
        prompt = policy.render(ask.messages)
        reply = (*policy.tokenizer.encode(text), policy.tokenizer.eos_token_id)
        with torch.no_grad():
            logprobs = tuple(plain_logprobs(policy.model, prompt, reply).tolist())
        return Reply(text, prompt, reply, logprobs)

    return Script(say)


def played(policy: LanguageModel, *overrides: str) -> tuple[list[Episode], Batch]:
    """Three games of the configured LSP, spoken by the script and scored with the numbers above."""
    game = make(config("game=lsp", f"game.answers={G}", *overrides).game, "game")
    script = turns_as_scripted(policy)
    episodes = play(game, {"challenger": script, "solver": script}, range(N), key="0")
    flat = {"reward": Fixed([r for row in R for r in row]), "quality": Fixed([q for row in Q for q in row])}
    score_and_pay(game, episodes, flat, {})
    return episodes, collate([(e, t) for e in episodes for t in e.turns])


def stepped(
    policy: LanguageModel, reference: LanguageModel, regularizer: str, *overrides: str
) -> tuple[list[Tensor], dict[str, float], Tensor]:
    """Gradients, metrics and advantages of one step of the configured update."""
    cfg = config(
        "game=lsp", "update=lsp", f"regularizer={regularizer}", f"regularizer.beta={BETA}",
        f"update.role_weights.challenger={ALPHA}", "update.max_grad_norm=1e9", *overrides,
    )  # fmt: skip
    update = make_later(cfg["update"], "update")(
        policy=policy, reference=reference, roles=("challenger", "solver"), optimizer=Capture
    )
    learnt = update.step(played(policy, *overrides)[1])
    return update.optimizer.gradients, learnt.metrics, learnt.advantages


def paper_loss(
    policy: LanguageModel, reference: LanguageModel, episodes: list[Episode], k3: bool, zero: bool
) -> Tensor:
    """L_Sol + alpha_Ch L_Ch as printed, one unpadded call of each model a turn; k3 in the KL term's place if asked."""

    def bracket(reply: Reply, advantage: float) -> Tensor:
        pi = plain_logprobs(policy.model, reply.prompt_ids, reply.reply_ids)
        with torch.no_grad():
            ref = plain_logprobs(reference.model, reply.prompt_ids, reply.reply_ids)
        ratio = (pi.sum() - pi.sum().detach()).exp()  # pi / stop(pi), which as a quotient would be 0 / 0
        kl = ((ref - pi).exp() - (ref - pi) - 1).sum() if k3 else pi.sum() - ref.sum()
        return ratio * advantage - BETA * kl

    quality = [[0.0] * G for _ in Q] if zero else Q
    solver, challenger = torch.zeros(()), torch.zeros(())
    interest = [fmean(quality[i]) - fmean(R[i]) for i in range(N)]  # -V + V_Q, section 1.5
    for i, episode in enumerate(episodes):
        query, *answers = [turn.reply for turn in episode.turns]
        value = fmean(r + q for r, q in zip(R[i], quality[i], strict=True))
        for j, answer in enumerate(answers):
            solver = solver - bracket(answer, R[i][j] + quality[i][j] - value) / (N * G)
        challenger = challenger - bracket(query, interest[i] - fmean(interest)) / N
    return solver + ALPHA * challenger


@pytest.mark.parametrize("game", ["lsp", "lsp_zero"])
@pytest.mark.parametrize("regularizer", ["literal", "kl_forward"])
def test_loss_and_gradient_are_the_papers(learner: LanguageModel, regularizer: str, game: str) -> None:
    """Equations 2-5 with self-reward (lsp), and without (the Challenger paid by lsp_zero, the quality weighing 0)."""
    reference = learner.snapshot()
    perturb(learner.model, 0.01)
    zero = () if game == "lsp" else ("challenger=lsp_zero", "game.quality_weight=0")
    gradients, metrics, _ = stepped(learner, reference, regularizer, *zero)
    loss = paper_loss(learner, reference, played(learner)[0], regularizer == "kl_forward", game == "lsp_zero")
    loss.backward()
    expected = {n: p.grad for n, p in learner.model.named_parameters()}
    assert len(gradients) == len(expected) > 30
    for (name, right), ours in zip(expected.items(), gradients, strict=True):
        assert right.abs().max() > 1e-3, name  # each parameter has something to say
        torch.testing.assert_close(ours, right, atol=1e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
    assert metrics["loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert metrics["logprob_mismatch"] < 1e-5


def test_the_reference_matters(learner: LanguageModel) -> None:
    """k3 towards another reference is another gradient: the comparison above could tell them apart."""
    reference = learner.snapshot()
    perturb(learner.model, 0.01)
    near, _, _ = stepped(learner, reference, "kl_forward")
    own, _, _ = stepped(learner, learner.snapshot(), "kl_forward")
    assert max(float((a - b).abs().max()) for a, b in zip(near, own, strict=True)) > 1e-3


def test_micro_batches_change_nothing(learner: LanguageModel) -> None:
    reference = learner.snapshot()
    perturb(learner.model, 0.01)
    small = "game.quality_weight=0.1"  # gradients of order 1, so that 1e-6 is above the rounding of float32
    one, metrics_one, _ = stepped(learner, reference, "kl_forward", small, "update.micro_batch=1")
    all_at_once, metrics_all, _ = stepped(learner, reference, "kl_forward", small, "update.micro_batch=100")
    for a, b in zip(one, all_at_once, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
    assert metrics_one["loss"] == pytest.approx(metrics_all["loss"], abs=1e-6)


def test_advantages_by_hand(learner: LanguageModel) -> None:
    """R + Q: 8 4 -.5 3.25 (mean 3.6875), 8 1 1.5 3.5 (3.5), 1.125 1.25 1.125 1.5 (1.25).

    The Challenger's V_Q - V: 3.5 - .1875, 3 - .5, 1 - .25, that is 3.3125, 2.5, .75, of mean 2.1875.
    """
    _, _, advantages = stepped(learner, learner.snapshot(), "literal")
    by_hand = [
        *(1.125, 4.3125, 0.3125, -4.1875, -0.4375),
        *(0.3125, 4.5, -2.5, -2.0, 0.0),
        *(-1.4375, -0.125, 0.0, -0.125, 0.25),
    ]
    torch.testing.assert_close(advantages, torch.tensor(by_hand), atol=1e-6, rtol=0)


def test_a_payoff_regularizer_enters_before_the_comparison(learner: LanguageModel) -> None:
    """-beta log(pi / pi_ref) of the whole reply is part of the payoff, so the advantages compare it too."""
    reference = learner.snapshot()
    perturb(learner.model, 0.01)
    _, _, plain = stepped(learner, reference, "literal")
    _, _, paid = stepped(learner, reference, "kl_reverse_payoff")
    costs = []
    for episode in played(learner)[0]:
        for turn in episode.turns:
            ids = turn.reply.prompt_ids, turn.reply.reply_ids
            with torch.no_grad():
                ratio = plain_logprobs(learner.model, *ids).sum() - plain_logprobs(reference.model, *ids).sum()
            costs.append(-BETA * float(ratio))
    table = torch.tensor(costs).view(N, 1 + G)
    questions, answers = table[:, :1], table[:, 1:]
    expected = torch.cat([questions - questions.mean(), answers - answers.mean(1, keepdim=True)], dim=1).flatten()
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(paid - plain, expected, atol=1e-5, rtol=0)
