"""OpenSpiel's and TextArena's games behind our interface are still theirs: views, options, luck, returns."""

import random
import re
import signal
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random
from typing import Any

import nltk
import numpy as np
import pyspiel
import pytest
import textarena
from scripted import Script

from selfplay.core import Ask, Episode, Player, Reply, SelfplayError
from selfplay.games.openspiel import OpenSpiel, _names
from selfplay.games.textarena import TextArena, _Luck
from selfplay.players.nature import Nature
from selfplay.rollout import play
from selfplay.theory.exploitability import nash_conv
from selfplay.theory.tree import enumerate_game

SPIEL = (
    "kuhn_poker",
    "leduc_poker(players=3)",
    "tic_tac_toe",
    "matching_pennies_3p",
    "liars_dice",
    "goofspiel(num_cards=4)",
    "matrix_pd",
    "bargaining",
    "python_kuhn_poker",
    "pig(players=3,winscore=8)",
    "dark_chess(board_size=4)",
    "markov_soccer(horizon=20)",
)


def random_option(ask: Ask) -> Reply:
    return Reply(Random(ask.key).choice(ask.options))


def seated(game: OpenSpiel | TextArena, say: Callable[[Ask], Reply]) -> dict[str, Player]:
    script = Script(say)
    return {role: Nature() if role == "chance" else script for role in game.roles}


# --- OpenSpiel --------------------------------------------------------------------------------------------------------


def number(state: Any, player: int, name: str) -> int:
    """The action of this name: OpenSpiel's own, or the number in brackets where that is not unique."""
    [action] = [
        a
        for a in state.legal_actions(player)
        if name in (state.action_to_string(player, a).strip(), f"{state.action_to_string(player, a).strip()} ({a})")
    ]
    return int(action)


def check_against_openspiel(name: str, episode: Episode) -> None:
    """Play the same actions in OpenSpiel itself, and compare what there is to compare."""
    state, turns = pyspiel.load_game(name).new_initial_state(), iter(episode.turns)
    remembers = state.get_game().get_type().provides_information_state_string
    while not state.is_terminal():
        if state.is_chance_node():
            turn = next(turns)
            assert turn.ask.role == "chance"
            assert turn.ask.weights == tuple(p for _, p in state.chance_outcomes())
            assert len(set(turn.ask.options)) == len(turn.ask.options) == len(turn.ask.weights)
            state.apply_action(number(state, state.current_player(), turn.reply.text))
            continue
        together = state.is_simultaneous_node()
        actions = []
        for player in range(state.num_players()) if together else [state.current_player()]:
            turn = next(turns)
            assert turn.ask.role == f"player_{player}"
            assert len(turn.ask.options) == len(state.legal_actions(player))
            if remembers:
                assert [m["content"] for m in turn.ask.messages] == [state.information_state_string(player)]
            else:
                assert turn.ask.prompt.endswith(state.observation_string(player))
            actions.append(number(state, player, turn.reply.text))
        if together:
            state.apply_actions(actions)
        else:
            state.apply_action(actions[0])
    assert next(turns, None) is None
    assert episode.returns == {f"player_{p}": r for p, r in enumerate(state.returns())}


@pytest.mark.parametrize("name", SPIEL)
def test_an_openspiel_game_is_openspiels(name: str) -> None:
    game = OpenSpiel(name, None)
    players = seated(game, random_option)
    for episode in play(game, players, range(20), key="spiel"):
        check_against_openspiel(name, episode)


def test_leduc_poker_is_as_exploitable_as_openspiel_says() -> None:
    tree, rng = enumerate_game(OpenSpiel("leduc_poker", None)), np.random.default_rng(0)
    game = pyspiel.load_game("leduc_poker")
    assert len(tree.states) == 936  # information states (Southey et al. 2005)
    for _ in range(5):
        strategy = tuple(rng.dirichlet(np.ones(len(state.ask.options))) for state in tree.states)
        theirs = {}
        for state, p in zip(tree.states, strategy, strict=True):
            actions = [("Fold", "Call", "Raise").index(option) for option in state.ask.options]
            theirs[state.ask.prompt] = list(zip(actions, p.tolist(), strict=True))
        ours = nash_conv(tree, strategy)
        assert ours.value == pytest.approx(pyspiel.nash_conv(game, pyspiel.TabularPolicy(theirs)), abs=1e-6)
        assert sum(ours.returns.values()) == pytest.approx(0.0, abs=1e-12)


def test_what_openspiel_says_of_a_game() -> None:
    assert OpenSpiel("kuhn_poker", None).roles == ("chance", "player_0", "player_1")
    assert OpenSpiel("kuhn_poker", None).forfeit == 2.0 and OpenSpiel("kuhn_poker", 5.0).forfeit == 5.0
    assert OpenSpiel("crazy_eights", None).forfeit == 544.0  # nobody can win anything there
    assert OpenSpiel("matching_pennies_3p", None).roles == ("player_0", "player_1", "player_2")
    assert [OpenSpiel(n, None).zero_sum for n in ("tic_tac_toe", "matrix_pd")] == [True, False]


def test_without_an_information_state_a_player_remembers() -> None:
    """In dark chess the board alone does not tell what was seen before; here every message stays."""
    game = OpenSpiel("dark_chess(board_size=4)", None)
    script = Script(random_option)
    [episode] = play(game, dict.fromkeys(game.roles, script), [0], key="dark")
    turns = [turn for turn in episode.turns if turn.ask.role == "player_0"]
    assert len(turns) > 2
    for before, after in pairwise(turns):
        assert [m["role"] for m in before.ask.messages[-2:]] in (["user"], ["assistant", "user"])
        said = {"role": "assistant", "content": before.reply.text}
        assert after.ask.messages[:-1] == (*before.ask.messages, said)


def test_every_option_has_a_name_of_its_own() -> None:
    class Doubles:
        def action_to_string(self, player: int, action: int) -> str:
            return {0: " fold ", 3: "raise", 5: "raise", 6: ""}[action]

    assert _names(Doubles(), 0, [0, 3, 5, 6]) == ("fold", "raise (3)", "raise (5)", "(6)")


def test_an_illegal_reply_forfeits_an_openspiel_game() -> None:
    game = OpenSpiel("matching_pennies_3p", 6.0)

    def say(ask: Ask) -> Reply:
        return Reply("heads" if ask.role == "player_1" else ask.options[0])  # OpenSpiel writes "Heads"

    [episode] = play(game, seated(game, say), [0], key="illegal")
    assert episode.returns == {"player_0": 3.0, "player_1": -6.0, "player_2": 3.0}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("kuhn_pokr", "kuhn_poker"),
        ("kuhn_poker(cards=4)", "Unknown parameter 'cards'"),
        ("mfg_crowd_modelling", "mean-field"),
        ("tarok", "sampled stochastic"),
        ("nfg_game", "cannot create"),
        ("", "no game"),
    ],
)
def test_what_openspiel_cannot_play_is_told(name: str, told: str) -> None:
    with pytest.raises(SelfplayError, match=re.escape(told)):
        OpenSpiel(name, None)


def test_chance_must_reply_an_outcome() -> None:
    game = OpenSpiel("kuhn_poker", None)
    with pytest.raises(SelfplayError, match=r"seats\.chance=nature"):
        play(game, dict.fromkeys(game.roles, Script(lambda ask: Reply("joker"))), [0], key="x")


# --- TextArena --------------------------------------------------------------------------------------------------------

ARENA = (
    ("TicTacToe-v0", 2),
    ("KuhnPoker-v0", 2),
    ("SimpleNegotiation-v0", 2),
    ("Blackjack-v0", 1),
    ("SecretMafia-v0", 6),
)


def bracketed(ask: Ask) -> Reply:
    """One of the moves that the prompt shows in brackets, mostly."""
    rng = Random(ask.key)
    shown = re.findall(r"\[[^\[\]\n]{1,20}\]", ask.prompt)
    return Reply(rng.choice(shown) if shown and rng.random() < 0.9 else "hello")


def first_free_cell(ask: Ask) -> Reply:
    """TicTacToe: the last list of available moves, its first."""
    return Reply(re.findall(r"\[\d\]", ask.prompt.rpartition("Available Moves:")[2])[0])


def in_textarena_itself(name: str, players: int, seed: int, episode: Episode) -> None:
    """Send the same actions to TextArena's own loop, with its luck seeded alike, and compare."""
    random.seed(seed)
    np.random.seed(seed)
    env = textarena.make(name)
    env.reset(num_players=players, seed=seed)
    done = False
    for turn in episode.turns[1:]:
        assert not done
        player, seen = env.get_observation()
        assert (turn.ask.role, turn.ask.prompt) == (f"player_{player}", seen)
        assert turn.ask.options == () and len(turn.ask.messages) == 1
        done, _ = env.step(action=turn.reply.text)
    assert done
    assert episode.returns == {f"player_{p}": r for p, r in env.close()[0].items()}


@pytest.mark.parametrize(("name", "players"), ARENA)
def test_a_textarena_game_is_textarenas(name: str, players: int) -> None:
    """Also: played side by side or alone, the caller's generators are untouched and the episodes are the same."""
    game = TextArena(name, players, 50, 500)
    random.seed(1)
    np.random.seed(1)
    state, numpy_state = random.getstate(), np.random.get_state()[1].tolist()
    together = play(game, seated(game, bracketed), range(6), key="arena")
    random.seed(2)  # what the caller draws is no matter
    alone = [play(game, seated(game, bracketed), [i], key="arena")[0] for i in range(6)]
    assert alone == together
    assert len({turn.ask.prompt for e in together for turn in e.turns}) > 6
    random.setstate(state)
    TextArena(name, players, 50, 500)
    play(game, seated(game, bracketed), range(3), key="again")
    assert random.getstate() == state and np.random.get_state()[1].tolist() == numpy_state
    for episode in together:
        in_textarena_itself(name, players, int(episode.turns[0].reply.text), episode)


def test_an_episodes_luck_goes_on_where_it_was() -> None:
    """Few games draw from numpy's generator, and none of those above."""
    luck, expected, outside = _Luck(3), np.random.RandomState(3).random(3).tolist(), np.random.get_state()[1].tolist()
    drawn = []
    for _ in range(3):
        with luck.own():
            drawn.append(np.random.random())
        assert np.random.get_state()[1].tolist() == outside
    assert drawn == expected


def test_the_seed_is_all_the_luck_of_a_textarena_game() -> None:
    """Kuhn poker: one seed, one deal; among many seeds, several deals."""
    game = TextArena("KuhnPoker-v0", 2, 40, 100)

    def first_prompts(seed: int) -> list[str]:
        deal = {r: Script(lambda ask: Reply(str(seed)) if ask.role == "chance" else bracketed(ask)) for r in game.roles}
        return [e.turns[1].ask.prompt for e in play(game, deal, range(3), key="seed")]

    prompts = [first_prompts(seed) for seed in range(12)]
    assert all(len(set(same)) == 1 for same in prompts)
    assert len({same[0] for same in prompts}) > 1


def test_a_whole_game_of_tic_tac_toe() -> None:
    """Both take the first free cell: 0 2 4 6 for the first player, who wins by the diagonal 2 4 6."""
    game = TextArena("TicTacToe-v0", 2, 1, 100)
    [episode] = play(game, seated(game, first_free_cell), [0], key="cells")
    assert [turn.reply.text for turn in episode.turns[1:]] == [f"[{cell}]" for cell in range(7)]
    assert episode.returns == {"player_0": 1.0, "player_1": -1.0}


def test_textarena_says_what_an_illegal_move_costs() -> None:
    game = TextArena("TicTacToe-v0", 2, 1, 100)
    [episode] = play(game, seated(game, lambda ask: Reply("please")), [0], key="rude")
    assert [turn.ask.role for turn in episode.turns] == ["chance", "player_0", "player_0"]  # one is forgiven
    assert "attempted an invalid move" in episode.turns[2].ask.prompt
    assert episode.returns == {"player_0": -1.0, "player_1": 1.0}


def test_a_textarena_game_without_an_end_ends() -> None:
    game = TextArena("SimpleNegotiation-v0-long", 2, 1, 5)
    [episode] = play(game, seated(game, lambda ask: Reply("hm")), [0], key="long")
    assert len(episode.turns) == 1 + 5 and episode.returns == {"player_0": 0.0, "player_1": 0.0}


def test_a_textarena_game_without_players_left_ends() -> None:
    """TextArena itself would look for the next player for ever."""

    class StuckError(Exception):
        pass

    def stop(*_: object) -> None:
        raise StuckError

    game = TextArena("PublicGoodsGame-v0", 2, 1, 500)
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    try:
        episodes = play(game, seated(game, bracketed), range(4), key="k")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert all(len(e.turns) < 400 for e in episodes)
    assert {"player_0": 0.0, "player_1": 0.0} in [e.returns for e in episodes]


@pytest.mark.parametrize(
    ("name", "players", "told"),
    [("CharacterConclave-v0", 3, "failed to take a reply"), ("Countdown-v0", 1, "not with one number per player")],
)
def test_the_faults_of_textarenas_games_are_told(name: str, players: int, told: str) -> None:
    game = TextArena(name, players, 1, 500)
    with pytest.raises(SelfplayError, match=told):
        play(game, seated(game, bracketed), range(4), key="fault")


def test_raw_versions_show_text_too() -> None:
    game = TextArena("TicTacToe-v0-raw", 2, 1, 100)
    [episode] = play(game, seated(game, first_free_cell), [0], key="raw")
    assert "You are Player 0" in episode.turns[3].ask.prompt and "[Player 1] [1]" in episode.turns[3].ask.prompt
    assert episode.returns == {"player_0": 1.0, "player_1": -1.0}


@pytest.mark.parametrize(
    ("name", "players", "told"),
    [
        ("TicTacTo-v0", 2, "choose another, for example TicTacToe-v0"),
        ("TicTacToe-v0", 3, "game.players"),
        ("TwentyQuestions-v0", 1, "OPENROUTER_API_KEY"),
        ("UsedCar-v0-balanced", 2, "No module named"),
    ],
)
def test_what_textarena_cannot_make_is_told(
    name: str, players: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENROUTER_API_KEY", raising=False)
    with pytest.raises(SelfplayError, match=re.escape(told)) as caught:
        TextArena(name, players, 1, 10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["Hangman-v0", "WordLadder-v0"])
def test_a_missing_word_list_is_told_and_not_downloaded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Sequence[Any]] = []
    monkeypatch.setattr(nltk, "download", lambda *args, **_: asked.append(args))
    monkeypatch.setattr(nltk.data, "path", [])
    before = nltk.download
    with pytest.raises(
        SelfplayError, match=rf"'{name}' needs the nltk resource 'words'.*python -m nltk.downloader words"
    ):
        TextArena(name, 1, 1, 10)
    assert asked == [] and nltk.download is before


# --- neither is required ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("package", "make"),
    [
        ("pyspiel", lambda: OpenSpiel("kuhn_poker", None)),
        ("textarena", lambda: TextArena("TicTacToe-v0", 2, 1, 10)),
    ],
)
def test_a_missing_package_is_told(package: str, make: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SelfplayError, match=re.escape("pip install 'selfplay[games]'")):
        make()
