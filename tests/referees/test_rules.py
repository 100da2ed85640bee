"""Rewards of a reply's length, format and repetitions: by hand, and TRL's functions where it has them."""

import random
from pathlib import Path

import cli
import pytest

from selfplay.core import Ask, Reply, SelfplayError, Turn, user
from selfplay.referees import rules
from selfplay.referees.rules import Rule, matches, near_length, overlong, repetition, tagged


def said(text: str = "", ids: int = 0) -> Turn:
    return Turn(Ask("solver", user("who?")), Reply(text, (1,), tuple(range(ids))), {}, 0.0, "learner")


def test_overlong_by_hand() -> None:
    """Most 10, buffer 0.4: free up to 6, then a quarter per token, -1 at 10 and beyond."""
    lengths = {1: 0.0, 6: 0.0, 7: -0.25, 8: -0.5, 9: -0.75, 10: -1.0, 11: -1.0, 99: -1.0}
    for length, score in lengths.items():
        assert overlong(said(ids=length), most=10, buffer=0.4) == pytest.approx(score)
    assert overlong(said("a b c  d\te"), most=5, buffer=0.4, unit="words") == -1.0
    assert overlong(said("abcd"), most=5, buffer=0.4, unit="characters") == -0.5


def test_overlong_is_trls() -> None:
    from trl.rewards import get_soft_overlong_punishment

    theirs = get_soft_overlong_punishment(max_completion_len=20480, soft_punish_cache=4096)
    lengths = [1, 16383, 16384, 16385, 18000, 20479, 20480, 20481, 30000]
    expected = theirs([list(range(n)) for n in lengths])
    assert [overlong(said(ids=n), most=20480) for n in lengths] == pytest.approx(expected)
    assert -1 < expected[4] < 0


def test_near_length_by_hand() -> None:
    found = [near_length(said(ids=n), target=10, slope=0.5) for n in (8, 10, 13)]
    assert found == [-1.0, 0.0, -1.5]
    assert near_length(said("ab c"), target=0, slope=1, unit="characters") == -4
    assert near_length(said("ab c"), target=0, slope=1, unit="words") == -2


def test_tokens_of_a_player_that_has_none() -> None:
    with pytest.raises(SelfplayError, match="a reply of learner to the role solver has no tokens to count; use unit=w"):
        near_length(said("ab"), target=1)


@pytest.mark.parametrize(
    ("text", "size", "score"),
    [
        ("a b c a b c", 3, -1 / 4),  # abc bca cab abc
        ("A b a B a b", 2, -3 / 5),  # ab ba ab ba ab
        ("a a a a", 1, -3 / 4),
        ("a b c d", 2, 0.0),
        ("a b", 3, 0.0),
        ("", 1, 0.0),
    ],
)
def test_repetition_by_hand(text: str, size: int, score: float) -> None:
    assert repetition(said(text), size) == pytest.approx(score)


def test_repetition_of_tokens_and_characters() -> None:
    turn = Turn(Ask("solver"), Reply("aaaa", (), (5, 6, 5, 6, 5)), {}, 0.0)
    assert repetition(turn, 2, "tokens") == -2 / 4  # 56 65 56 65
    assert repetition(turn, 2, "characters") == pytest.approx(-2 / 3)
    assert repetition(turn, 1) == 0  # one word


def test_repetition_is_trls() -> None:
    from trl.rewards import get_repetition_penalty_reward

    draw = random.Random(0)
    replies = [tuple(draw.choices([5, 6, 7], k=draw.randrange(1, 12))) for _ in range(40)]
    for size in (1, 2, 3):
        expected = get_repetition_penalty_reward(ngram_size=size, max_penalty=-1.0)(replies)
        found = [repetition(Turn(Ask("solver"), Reply("", (), ids)), size, "tokens") for ids in replies]
        assert found == pytest.approx(expected)
        assert len(set(expected)) > 3


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("<think>a</think><answer>b</answer>", 1),
        (" <think>a\n</think>\n\n<answer>\nb</answer>\n", 1),
        ("<think></think><answer></answer>", 1),
        ("<think>a < b</think><answer></b></answer>", 1),
        ("<answer>b</answer><think>a</think>", 0),
        ("so <think>a</think><answer>b</answer>", 0),
        ("<think>a</think> so <answer>b</answer>", 0),
        ("<think>a</think><answer>b</answer> so", 0),
        ("<think>a</think><answer>b", 0),
        ("<think>a<answer>b</answer>", 0),
        ("<think>a<think>c</think><answer>b</answer>", 0),
        ("<think>a</think></think><answer>b</answer>", 0),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 0),
        ("<think>a<answer>c</answer></think><answer>b</answer>", 0),
        ("<Think>a</Think><answer>b</answer>", 0),
        ("a</think><answer>b</answer>", 0),
        ("<answer>b</answer>", 0),
        ("", 0),
    ],
)
def test_tags_by_hand(text: str, score: int) -> None:
    assert tagged(said(text)) == score


def test_thoughts_before_an_answer_are_trls() -> None:
    from trl.rewards import think_format_reward

    texts = [
        "<think>a</think>b",
        "<think>a</think>",
        "<think>a\n</think>\nb",
        "b",
        "<think>a",
        "<think>a<think></think>",
    ]
    expected = think_format_reward([[{"role": "assistant", "content": text}] for text in texts])
    assert [tagged(said(text), ["think"], rest=True) for text in texts] == expected == [1, 1, 1, 0, 0, 0]
    assert tagged(said("<think>a</think>b"), ["think"]) == 0
    assert tagged(said("<think>a</think>b</think>"), ["think"], rest=True) == 0  # TRL's has no rule on the last tag


def test_a_pattern_is_matched_with_the_whole_reply() -> None:
    assert [matches(said(text), r"Answer: \d+\.?") for text in ("Answer: 12", "Answer: 12.\n", "so Answer: 12")] == [
        1,
        0,
        0,
    ]
    assert matches(said("a\nb\n\\boxed{3}"), r".*\\boxed\{.+\}") == 1


def test_a_pattern_that_never_ends_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "SECONDS", 0.05)
    with pytest.raises(SelfplayError, match=r"the pattern '\(a\|aa\)\+' took more than 0.05 seconds on a reply of 61"):
        matches(said("a" * 60 + "b"), "(a|aa)+")


def test_roles_and_scores() -> None:
    referee = Rule(lambda turn: len(turn.reply.text), ["challenger"])
    assert referee.roles == ("challenger",)
    assert referee.score([said("a"), said("abc")], {}).tolist() == [1.0, 3.0]
    assert referee.score([], {}).shape == (0,)


SMALL = [arg for arg in cli.SMALL if not arg.startswith("reward=")]


def test_a_weighted_sum_of_rules_and_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "summed_.py").write_text("def one(answer):\n    return 1 if answer else 1.0\n")
    monkeypatch.chdir(tmp_path)
    args = ["reward=sum", "~reward@reward.parts.format", "~reward.weights.format", "reward.weights.repetition=0.5",
            "reward.parts.length.rule.most=6", "reward.parts.length.rule.unit=characters",
            "reward.parts.length.rule.buffer=0.5", "reward.weights.length=2",
            "reward.parts.repetition.rule.unit=characters", "reward.parts.repetition.rule.size=1",
            "+reward@reward.parts.mine=function", "reward.parts.mine.function=summed_.one", "+reward.weights.mine=10",
            "game=dataset", "player.temperature=2"]  # fmt: skip
    run = cli.finished(tmp_path / "run", *SMALL, *args)
    turns = [turn for turn in cli.lines(run / "episodes.jsonl") if turn["role"] == "solver"]
    for turn in turns:
        text = turn["reply"]
        repeated = len(set(text)) / len(text) - 1 if text else 0.0
        expected = turn["scores"]["truth"] + 2 * max(-1, min(0, (3 - len(text)) / 3)) + 0.5 * repeated + 10
        assert turn["scores"]["reward"] == pytest.approx(expected, abs=1e-5)
    assert {"reward/mine", "reward/length", "reward/repetition"} <= set(cli.metrics(run)[-1])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["reward=length", "reward.rule.unit=lines"], "unit"),
        (["reward=length", "reward.rule.buffer=0"], "buffer"),
        (["reward=format", "reward.rule.tags=[]"], "tags"),
        (["reward=repetition", "reward.rule.size=0"], "size"),
        (["reward=format", "reward.rule={_target_:selfplay.referees.rules.matches,_partial_:true,pattern:'(a'}"], "(a"),
    ],
)
def test_wrong_options_are_told(options: list[str], words: str, tmp_path: Path) -> None:
    ended = cli.run(*SMALL, "game=dataset", *options, f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.code == 1 and words in ended.err and "Traceback" not in ended.err and not (tmp_path / "run").exists()
