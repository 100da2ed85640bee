"""ROUGE-L against brute force and the reference implementation; what a reply is compared with."""

from collections.abc import Sequence
from itertools import combinations
from random import Random

import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer

from selfplay.core import Ask, Reply, SelfplayError, Turn, user
from selfplay.parallel import Processes, using
from selfplay.referees.novelty import Novelty
from selfplay.tasks.overlap import common_subsequence, rouge_l, words


def brute_force(one: Sequence[str], other: Sequence[str]) -> int:
    """The longest of all subsequences of one that is a subsequence of the other."""

    def within(part: tuple[str, ...]) -> bool:
        rest = iter(other)
        return all(item in rest for item in part)

    return max(n for n in range(len(one) + 1) for part in combinations(one, n) if within(part))


def test_the_longest_common_subsequence_is_that_of_brute_force() -> None:
    rng = Random(0)
    for _ in range(400):
        one, other = ([rng.choice("abcd"[: rng.randint(1, 4)]) for _ in range(rng.randint(0, 8))] for _ in range(2))
        assert common_subsequence(one, other) == brute_force(one, other), (one, other)


def test_long_sequences_exceed_a_machine_word() -> None:
    assert common_subsequence(["a", "b"] * 100, ["b", "a"] * 100) == 199
    assert common_subsequence([str(i) for i in range(300)], [str(i) for i in range(299, -1, -1)]) == 1


def test_rouge_l_is_the_reference_implementations() -> None:
    """On texts of letters, digits, marks and capitals; theirs knows only ASCII."""
    rng, scorer = Random(1), RougeScorer(["rougeL"])
    vocabulary = ["What", "is", "3+4?", "the", "sum", "of-all", "it's", "A_b", "7", "...", "Sum"]
    for _ in range(200):
        text, other = (" ".join(rng.choices(vocabulary, k=rng.randint(1, 9))) for _ in range(2))
        if not words(text) or not words(other):
            continue
        theirs, ours = scorer.score(other, text)["rougeL"], rouge_l(text, other)
        assert (ours.precision, ours.recall, ours.f) == pytest.approx(
            (theirs.precision, theirs.recall, theirs.fmeasure)
        )


def test_texts_without_words() -> None:
    assert rouge_l("", "").f == rouge_l(" ?!", "?! ").f == 1.0
    assert rouge_l("", "a").f == rouge_l("a", "").f == rouge_l("?", "!").f == 0.0
    assert words("Größe ÉTÉ 日本 x_y") == ["größe", "été", "日本", "x", "y"]


def turns(*said: tuple[int, str, str]) -> list[Turn]:
    """(episode, question, reply), in the order of the asks."""
    return [Turn(Ask("solver", user(q), key=f"0/3/{e}/{i}"), Reply(r)) for i, (e, q, r) in enumerate(said)]


SAID = turns(
    (0, "one two three four", "five six"),
    (0, "one two three four", "six five"),
    (0, "one two three four", "five six"),
    (1, "?", "five six"),
    (1, "?", "one two six"),
    (0, "four", "four five"),
)


def scored(**options: object) -> list[float]:
    return Novelty(**options).score(SAID, {}).tolist()  # type: ignore[arg-type]


def test_earlier_replies_of_the_episode_and_the_prompt() -> None:
    """The first of two equal replies is new; "four" is all of one prompt and half of a reply: F = 2/3."""
    assert scored() == pytest.approx([1.0, 0.5, 0.0, 1.0, 1 - 0.4, 1 / 3])
    assert scored(prompt=False) == pytest.approx([1.0, 0.5, 0.0, 1.0, 1 - 0.4, 0.5])


def test_all_replies_of_the_episode() -> None:
    assert scored(earlier=False, prompt=False) == pytest.approx([0.0, 0.5, 0.0, 1 - 0.4, 1 - 0.4, 0.5])


def test_replies_of_the_step() -> None:
    assert scored(among="step", prompt=False) == pytest.approx([1.0, 0.5, 0.0, 0.0, 1 - 0.4, 0.5])
    assert scored(among="step", prompt=False, earlier=False) == pytest.approx([0.0, 0.5, 0.0, 0.0, 1 - 0.4, 0.5])


def test_the_larger_of_precision_and_recall() -> None:
    """ "one two six" has one of its three words in "five six", which has one of its two there."""
    assert scored(measure="any", prompt=False)[4] == pytest.approx(0.5)
    assert scored(measure="any")[5] == 0.0
    assert scored(measure="any")[1] == 0.5
    part = turns((0, "one two three four", "Three four!"))
    assert Novelty(measure="any").score(part, {}).tolist() == [0.0]  # all of it was there
    assert Novelty().score(part, {}).tolist() == pytest.approx([1 / 3])


def test_the_order_of_episodes_is_no_matter() -> None:
    """Scores are a function of a turn's episode: the turns of two episodes apart give what they give together."""
    one, other = [t for t in SAID if "/3/0/" in t.ask.key], [t for t in SAID if "/3/1/" in t.ask.key]
    apart = torch.cat([Novelty().score(one, {}), Novelty().score(other, {})])
    assert apart.tolist() == Novelty().score(one + other, {}).tolist()


def test_what_novelty_cannot_be_told() -> None:
    with pytest.raises(SelfplayError, match=r"novelty's among is 'run'; choose one of episode, step"):
        Novelty(among="run")
    with pytest.raises(SelfplayError, match=r"novelty's measure is 'r'; choose one of f, any"):
        Novelty(measure="r")
    with pytest.raises(SelfplayError, match=r"novelty needs sampled episodes.*use rollout=sampled"):
        Novelty().score([Turn(Ask("solver", user("a")), Reply("b"))], {})
    two = Processes()
    two.size = 2
    with using(two):
        assert Novelty().score(SAID, {}).tolist() == scored()
        with pytest.raises(SelfplayError, match=r"each of 2 processes scores a part of them; use among=episode"):
            Novelty(among="step").score(SAID, {})
