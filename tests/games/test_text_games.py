"""Debate and Adversarial Taboo, by hand: who sees what, who wins, what each turn earns."""

from collections.abc import Sequence

import pytest
from configs import config
from scripted import Fixed, Script

from selfplay.building import make
from selfplay.core import Ask, Episode, Game, Player, Reply, SelfplayError
from selfplay.games.debate import Debate
from selfplay.games.taboo import Taboo
from selfplay.rollout import play, score_and_pay
from selfplay.tasks.tiny_world import parse


def scripted(game: Game, **lines: Sequence[str]) -> Episode:
    """One episode in which every role says its lines in turn."""
    players: dict[str, Player] = {}
    for role in game.roles:
        left = list(lines.get(role, ()))
        players[role] = Script(lambda ask, left=left: Reply(left.pop(0)))
    return play(game, players, [0], key="script")[0]


def said(ask: Ask) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in ask.messages]


# --- Debate -----------------------------------------------------------------------------------------------------------


def debate() -> Episode:
    return scripted(Debate(2, "Other?"), chance=["Q?"], first=["a1", "a2"], second=["b1", "b2"])


def test_debaters_read_all_that_was_said_and_are_asked_the_question_last() -> None:
    _, *turns = debate().turns
    assert [(turn.ask.role, turn.reply.text) for turn in turns] == [
        ("first", "a1"),
        ("second", "b1"),
        ("first", "a2"),
        ("second", "b2"),
    ]
    q, other = ("user", "Q?"), ("user", "Other?")
    a1, b1, a2 = (("assistant", text) for text in ("a1", "b1", "a2"))
    assert [said(turn.ask) for turn in turns] == [
        [q],
        [other, a1, q],
        [q, a1, other, b1, q],
        [other, a1, q, b1, other, a2, q],
    ]


def test_the_last_statements_decide_a_debate() -> None:
    """The early scores 9 and 5 are no matter; 1 against 3 at last: -2 and 2 for every statement."""
    game, episode = Debate(2, "Other?"), debate()
    score_and_pay(game, [episode], {"reward": Fixed([9.0, 5.0, 1.0, 3.0])}, {})
    assert [turn.payoff for turn in episode.turns] == [0.0, -2.0, 2.0, -2.0, 2.0]


def test_a_debate_needs_a_referee() -> None:
    with pytest.raises(SelfplayError, match="reward=verifier"):
        score_and_pay(Debate(2, "Other?"), [debate()], {}, {})
    with pytest.raises(SelfplayError, match="rounds is 0"):
        Debate(0, "Other?")


def test_the_verifier_judges_debaters_answers() -> None:
    """With the yaml's own parts: right against wrong."""
    cfg = config("game=debate", "reward=verifier", "game.rounds=1")
    game: Game = make(cfg.game, "game")
    nature: Player = make(cfg.players.nature, "nature")
    [question] = nature.act([Ask("chance", key="q")])
    parsed = parse(question.text)
    assert parsed is not None
    episode = scripted(game, chance=[question.text], first=["no idea"], second=[parsed.answer])
    score_and_pay(game, [episode], {"reward": make(cfg.reward, "reward")}, {})
    assert [turn.payoff for turn in episode.turns] == [0.0, -1.0, 1.0]


# --- Adversarial Taboo ------------------------------------------------------------------------------------------------


def taboo(turns: int = 3, decay: float | None = None, words: Sequence[str] = ("apple", "snow")) -> Taboo:
    return Taboo(words, turns, decay, "Hint at {word}.", "Guess it.")


def test_only_the_attacker_sees_the_word() -> None:
    episode = scripted(taboo(2), chance=["apple"], attacker=["red fruit", "pie"], defender=["a cherry?", "hm"])
    draw, *turns = episode.turns
    assert draw.ask.options == ("apple", "snow")
    assert [turn.ask.role for turn in turns] == ["attacker", "defender"] * 2
    assert [said(turn.ask) for turn in turns] == [
        [("user", "Hint at apple.")],
        [("user", "Guess it.\nred fruit")],
        [("user", "Hint at apple."), ("assistant", "red fruit"), ("user", "a cherry?")],
        [("user", "Guess it.\nred fruit"), ("assistant", "a cherry?"), ("user", "pie")],
    ]
    assert episode.returns == {"attacker": 0.0, "defender": 0.0}  # nobody won


@pytest.mark.parametrize(
    ("answer", "attacker"),
    [
        ("I know the word! It is apple", -1.0),
        ('So: i know the word. It is "APPLE"!', -1.0),
        ("I know the word! It is snow", 1.0),
        ("I know the word! It is pineapple", 1.0),
        ("I know the word! It is snow, or apple", 1.0),  # the first guess counts
        ("I know the word! Apple", 1.0),  # announced, but not as agreed
        ("An Apple, maybe?", 1.0),
        ("It is apple", 1.0),
        ("apples and pineapple", 0.0),  # other words
        ("no idea", 0.0),
    ],
)
def test_how_a_defender_ends_taboo(answer: str, attacker: float) -> None:
    episode = scripted(taboo(1), chance=["apple"], attacker=["fruit"], defender=[answer])
    assert episode.returns == {"attacker": attacker, "defender": -attacker}


@pytest.mark.parametrize("clue", ["an APPLE a day", "I know the word! It is snow"])
def test_an_attacker_who_breaks_the_rules_ends_the_game_without_a_winner(clue: str) -> None:
    episode = scripted(taboo(), chance=["apple"], attacker=["fruit", clue], defender=["hm"])
    assert [turn.ask.role for turn in episode.turns] == ["chance", "attacker", "defender", "attacker"]
    assert episode.returns == {"attacker": 0.0, "defender": 0.0}


def test_spags_weights_of_turns() -> None:
    """The winner's three utterances share 1 as 16 : 20 : 25 (each 1/0.8 times the one before), the loser's earn 0."""
    lines = {"chance": ["apple"], "attacker": ["x", "y", "z"], "defender": ["a", "b", "apple"]}
    game = taboo(decay=0.8)
    episode = scripted(game, **lines)
    assert episode.returns == {"attacker": 1.0, "defender": -1.0}
    assert game.payoffs(episode) == pytest.approx([0, 16 / 61, 0, 20 / 61, 0, 25 / 61, 0])
    lines["defender"][2] = "I know the word! It is apple"
    assert game.payoffs(scripted(game, **lines)) == pytest.approx([0, 0, 16 / 61, 0, 20 / 61, 0, 25 / 61])
    lines["defender"][2] = "c"
    assert game.payoffs(scripted(game, **lines)) == [0.0] * 7
    lines["defender"][2] = "apple"
    plain = taboo(decay=None)
    assert plain.payoffs(scripted(plain, **lines)) == [0, 1, -1, 1, -1, 1, -1]


@pytest.mark.parametrize(
    ("make_it", "told"),
    [
        (lambda: taboo(words=()), "words is empty"),
        (lambda: taboo(words=("ice cream",)), "'ice cream'"),
        (lambda: taboo(decay=1.5), "decay is 1.5"),
        (lambda: taboo(turns=0), "turns is 0"),
        (lambda: Taboo(("apple",), 1, None, "Hint.", "Guess."), "placeholder {word}"),
        (lambda: scripted(taboo(), chance=["pear"]), "seats.chance=nature"),
    ],
)
def test_mistakes_are_told(make_it: object, told: str) -> None:
    assert callable(make_it)
    with pytest.raises(SelfplayError) as caught:
        make_it()
    assert told in str(caught.value)


def test_prompts_are_short_and_plain() -> None:
    """What a small model can read: ASCII, and a line or two."""
    for name in ("debate", "taboo"):
        game = config(f"game={name}").game
        for text in (str(game[key]) for key in ("attacker", "defender", "other") if key in game):
            assert text.isascii() and len(text) < 120
