"""Language Self-Play's prompts: task and template find their places, generation tags do not reach the Solver."""

import re
from functools import partial
from pathlib import Path

import cli
import pytest
from scripted import Script

from selfplay.building import make
from selfplay.core import Ask, Reply, SelfplayError
from selfplay.games.lsp import LSP
from selfplay.players.nature import Nature, numbers
from selfplay.rollout import play
from selfplay.thoughts import question

PLACED = "Task '{task}'.\n[Start Generation]\n{template}\n[End Generation] {curly}"


def challenge(prompt: str, task: str | None, template: str | None) -> str:
    return LSP(prompt, task, template, 1).challenge


def test_task_and_template_find_their_places() -> None:
    filled = "Task 'Maths'.\n[Start Generation]\nWhat is {number}?\n[End Generation] {curly}"
    assert challenge(PLACED, "Maths", "What is {number}?") == filled
    assert challenge(PLACED, None, None) == PLACED.replace("{task}", "None").replace("{template}", "None")
    assert challenge("{task}{template}", "{template}", "{task} \\1 {0}") == "{template}{task} \\1 {0}"
    assert challenge("Write one question.", None, None) == "Write one question."


@pytest.mark.parametrize(
    ("task", "template", "told"), [("x", None, r"game\.task is 'x'"), (None, "y", r"game\.template")]
)
def test_a_task_that_has_no_place_is_told(task: str | None, template: str | None, told: str) -> None:
    with pytest.raises(SelfplayError, match=rf"{told}.*use prompts=paper"):
        LSP("Write one question.", task, template, 1)


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("What is 7?", "What is 7?"),
        ("  What is\n7? ", "  What is\n7? "),
        ("", ""),
        ("[Start Generation]\nWhat is 7?\n[End Generation]", "What is 7?"),
        ("Sure! [Start Generation]What is 7?[End Generation] I hope that it helps.", "What is 7?"),
        ("What is 7? [End Generation] The answer is 7.", "What is 7?"),
        ("[start generation ] What is 7?", "What is 7?"),
        ("[Start Generation] {x} [End Generation] [Start Generation] What is 7? [End Generation]", "What is 7?"),
        ("[End Generation] What is 7?", ""),
        ("<Score>7</Score> [Generation]", "<Score>7</Score> [Generation]"),
    ],
)
def test_tags_do_not_reach_the_solver(written: str, asked: str) -> None:
    assert question(written) == asked


def test_the_solver_is_asked_what_is_between_the_tags() -> None:
    say = Script(lambda ask: Reply("[Start Generation] 1+1? [End Generation]" if ask.role == "challenger" else "2"))
    [episode] = play(LSP("?", answers=2), {"challenger": say, "solver": say}, [0], key="k")
    assert [turn.ask.prompt for turn in episode.turns] == ["?", "1+1?", "1+1?"]
    assert episode.turns[0].reply.text == "[Start Generation] 1+1? [End Generation]"  # what was said stays as it was


def test_the_papers_prompt() -> None:
    """Everything that the paper says of it is there, once it is filled in."""
    config = cli.composed("prompts=paper", "game.task='Pure & Applied Mathematics'", "game.template='Solve {problem}'")
    game = make(config.game, "game")
    [ask] = next(game.play())
    assert isinstance(ask, Ask)
    for words in (
        "question answering",
        "title",
        "ONE",
        "ice-cream",
        "[Start Generation]\nSolve {problem}\n[End Generation]",
    ):
        assert words in ask.prompt
    assert ask.prompt.count("'Pure & Applied Mathematics'") == 2
    assert "{task}" not in ask.prompt and "{template}" not in ask.prompt and "{curly}" in ask.prompt


def test_prompts_are_the_players_and_the_command_lines() -> None:
    def chosen(*args: str) -> tuple[str, str]:
        config = cli.composed(*args)
        return config.game.challenge[:12], config.quality.prompt[:9]

    assert chosen() == chosen("player=tiny_lora") == ("Write one qu", "Score 0-7")
    assert chosen("player=smollm2") == chosen("player=hf") == ("Write one sh", "Score eac")
    assert chosen("player=smollm2", "prompts=paper") == ("# Background", "Judge a u")
    assert chosen("player=smollm2", "prompts.challenge=Ask.") == ("Ask.", "Score eac")


def test_nature_fills_the_spark_in() -> None:
    """Chance is asked first, its text is in the Challenger's prompt, it earns nothing; the key decides."""
    say = Script(lambda ask: Reply("7" if ask.role == "solver" else f"asked after: {ask.prompt}"))
    game = LSP("As in {spark}.", answers=2)
    nature = Nature(partial(numbers, form="{} + {}", below=10))
    seated = {"chance": nature, "challenger": say, "solver": say}
    episodes = play(game, seated, range(20), key="k")
    first = episodes[0].turns
    assert [turn.ask.role for turn in first] == ["chance", "challenger", "solver", "solver"] == [*game.roles, "solver"]
    prompts = [e.turns[1].ask.prompt for e in episodes]
    assert prompts[0] == f"As in {first[0].reply.text}." and re.fullmatch(r"As in \d \+ \d\.", prompts[0])
    assert len(set(prompts)) > 10 and prompts == [e.turns[1].ask.prompt for e in play(game, seated, range(20), key="k")]
    for turn, reward in zip(first[2:], (1.0, 0.0), strict=True):
        turn.scores = {"reward": reward, "quality": 2.0}
    assert game.payoffs(episodes[0]) == [0.0, 1.5, 3.0, 2.0]


def test_a_spark_needs_nature(tmp_path: Path) -> None:
    """And the remedy that the message has is one."""
    sparked = ["prompts.challenge='As in {spark}.'", "steps=1", "episodes=2", "eval=none"]
    refused = cli.run(*sparked)
    assert refused.code == 1 and "the role 'chance' of LSP has no player" in refused.err
    found = re.search(r"with '(.+)' \+seats\.chance=nature", refused.err)
    assert found is not None
    ended = cli.run(*sparked, found[1], "+seats.chance=nature", f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.code == 0, ended.err
    said = [t for t in cli.lines(tmp_path / "run" / "episodes.jsonl") if t["role"] == "challenger"]
    assert len(said) == 2 and all(re.fullmatch(r"As in \d \+ \d\.", turn["prompt"]) for turn in said)


def test_what_a_value_or_a_spark_holds_is_no_placeholder() -> None:
    form = LSP("{template}: {task}.", "{spark}", "Explain {spark}", 1)
    assert form.roles == ("challenger", "solver") and form.challenge == "Explain {spark}: {spark}."
    say, chance = Script(lambda ask: Reply("x")), Script(lambda ask: Reply("{task} {spark}"))
    both = LSP("{spark} of {task}, {spark}", "{spark}", answers=1)
    [episode] = play(both, {"chance": chance, "challenger": say, "solver": say}, [0], key="k")
    assert episode.turns[1].ask.prompt == "{task} {spark} of {spark}, {task} {spark}"


def test_a_novel_question_is_paid_for_if_it_is_asked_for() -> None:
    """The weighted novelty is added to the Challenger's payoff alone; without a score, a weight is an error."""
    say = Script(lambda ask: Reply("a question" if ask.role == "challenger" else "2"))
    paid = {}
    for weight in (0.0, 0.5):
        game = LSP("?", answers=2, novelty_weight=weight)
        [episode] = play(game, {"challenger": say, "solver": say}, [0], key="k")
        for turn in episode.turns:
            turn.scores |= {"reward": 1.0} if turn.ask.role == "solver" else {"novelty": 0.3}
        paid[weight] = game.payoffs(episode)
        del episode.turns[0].scores["novelty"]
        if weight:
            with pytest.raises(SelfplayError, match="novelty"):
                game.payoffs(episode)
    assert paid == {0.0: [-1.0, 1.0, 1.0], 0.5: [-0.85, 1.0, 1.0]}
