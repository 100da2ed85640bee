"""Cross-play: hand-made populations whose meta-game is known, the command line, and what it says about mistakes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli import finished, lines
from configs import config, filled
from omegaconf import DictConfig, OmegaConf
from scipy.stats import binom

from selfplay.building import make
from selfplay.core import Ask, Game, Play, Player, Reply, SelfplayError, user
from selfplay.crossplay import main
from selfplay.games.matrix import matrix_game
from selfplay.opponents.round_robin import Arena, enumerated, played
from selfplay.players.nature import Nature
from selfplay.players.tabular import Tabular
from selfplay.runs.crossplay_table import show
from selfplay.runs.folder import RunFolder
from selfplay.theory.intervals import bounded
from selfplay.theory.meta_game import Meeting, analyse, from_expectations, from_games, record
from selfplay.theory.tree import enumerate_game

RPS = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
PURE = np.eye(3)
KUHN = ("game=kuhn", "player=tabular", "regularizer=none", "eval=none", "steps=4", "episodes=16")
KEYS = (
    "runs game roles seed method names payoffs intervals games win_rates mean_returns ratings elo meta_nash "
    "exploitability nash_conv cycles"
)


def mixed(game: Game, shares: np.ndarray) -> Tabular:
    """A table that takes the i-th option with the i-th share, everywhere."""
    player = Tabular(64, 8, 0.0, 1.0, 0)
    asks = [state.ask for state in enumerate_game(game).states]
    player.probabilities(asks)
    with torch.no_grad():
        player.logits[:, : len(shares)] = torch.tensor(shares).clamp(min=1e-30).log()
    return player


def arena(game: Game, *roles: str, **others: Player) -> Arena:
    """A game in which the population has these roles."""
    seated = {**dict.fromkeys(roles, "learner"), **{name: name for name in others}}
    return Arena(game, seated, roles, others, {}, {})


def rps() -> Game:
    return matrix_game()


def written(path: Path, policies: Mapping[int, Tabular], *overrides: str) -> Path:
    """A run folder with these checkpoints."""
    cfg = filled("game=matrix", "player=tabular", "player.actions=8", "player.states=64", "eval=none", *overrides)
    run = RunFolder.create(path, cfg)
    for step, policy in policies.items():
        folder = run.checkpoints / f"step-{step:06d}"
        folder.mkdir(parents=True)
        policy.save(folder)
    return path


@pytest.fixture
def population(tmp_path: Path) -> Path:
    """A run of rock-paper-scissors that was pure rock, then pure paper, then pure scissors."""
    return written(tmp_path / "rps", {step: mixed(rps(), shares) for step, shares in enumerate(PURE, 1)})


def ended(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    """The exit code, stdout and stderr of `python -m selfplay.crossplay ARGS`."""
    code = 0
    try:
        main([str(arg) for arg in args])
    except SystemExit as end:
        code = int(end.code or 0)
    return code, *capsys.readouterr()


def report(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "crossplay.json").read_text())
    return read


# --- the meta-game ----------------------------------------------------------------------------------------------------


def test_pure_strategies_are_the_cycle_itself(population: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ended(capsys, population, "--exact", "--no-base")
    found = report(population / "crossplay")
    assert code == 0
    assert found["names"] == ["step-000001", "step-000002", "step-000003"]
    np.testing.assert_allclose(found["payoffs"], RPS, atol=1e-9)
    np.testing.assert_allclose(found["win_rates"], (RPS + 1) / 2, atol=1e-9)
    np.testing.assert_allclose(list(found["meta_nash"]["weights"].values()), 1 / 3, atol=1e-6)
    np.testing.assert_allclose(list(found["ratings"]["elo"].values()), 0, atol=1e-6)
    np.testing.assert_allclose(list(found["nash_conv"].values()), 2.0, atol=1e-6)
    assert abs(found["meta_nash"]["exploitability"]) < 1e-9
    assert found["exploitability"]["step-000001"] == {"value": pytest.approx(1.0), "by": "step-000002"}
    assert found["cycles"]["share"] == pytest.approx(1.0)
    assert found["cycles"]["three_cycles"] == found["cycles"]["clear_three_cycles"] == 1
    assert found["cycles"]["strongest"] == ["step-000001", "step-000003", "step-000002"]
    assert found["cycles"]["strongest_margin"] == pytest.approx(1.0)
    assert found["intervals"] is found["elo"] is found["seed"] is found["cycles"]["noise_share"] is None
    assert "step-000001 beats step-000003 beats step-000002 beats step-000001" in out


def test_games_agree_with_the_enumeration() -> None:
    shares = np.array([[0.8, 0.1, 0.1], [0.1, 0.7, 0.2], [0.3, 0.3, 0.4], [1 / 3] * 3])
    players = {str(i): mixed(rps(), row) for i, row in enumerate(shares)}
    exact, nash_convs = enumerated(arena(rps(), "row", "column"), players)
    sampled = played(arena(rps(), "row", "column"), players, 300, seed=0)
    assert nash_convs is not None and nash_convs["3"] == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(exact.payoffs, shares @ RPS @ shares.T, atol=1e-6)
    assert sampled.intervals is not None
    pairs = np.triu_indices(4, 1)
    low, high = (sampled.intervals[..., i][pairs] for i in (0, 1))
    off, half = np.abs(sampled.payoffs - exact.payoffs)[pairs], (high - low) / 2
    assert (off <= 1.35 * half).all()  # 99.2 %, each of six
    assert ((low <= exact.payoffs[pairs]) & (exact.payoffs[pairs] <= high)).sum() >= 4
    assert half.max() < 0.09
    assert np.abs(sampled.win_rates - exact.win_rates).max() < 0.07
    assert sampled.games[0].tolist() == [300, 600, 600, 600]


def test_kuhn_is_zero_sum_and_its_pay_offs_are_those_of_both_seats() -> None:
    game = make(config("game=kuhn").game, "game")
    nature = Nature()
    here = arena(game, "first", "second", chance=nature)
    shares = {"uniform": [0.5, 0.5], "passes": [1.0, 0.0], "bets": [0.0, 1.0]}
    players = {name: mixed(game, np.array(row)) for name, row in shares.items()}
    found, nash_convs = enumerated(here, players)
    np.testing.assert_allclose(found.payoffs, -found.payoffs.T, atol=1e-9)
    np.testing.assert_allclose(found.win_rates + found.win_rates.T, 1.0, atol=1e-9)
    assert found.payoffs[2, 1] == pytest.approx(1.0)  # who always bets wins the ante of who always passes
    assert nash_convs is not None and nash_convs["uniform"] == pytest.approx(11 / 12)
    sampled = played(here, players, 50, 0)
    np.testing.assert_allclose(sampled.payoffs, -sampled.payoffs.T, atol=1e-9)
    assert sampled.payoffs[2, 1] == 1.0 and sampled.intervals is not None
    low, high = sampled.intervals[2, 1]  # 100 games, all with the same result, where payoffs are from -2 to 2
    assert 0.75 < low < 0.95 and 1.0 <= high < 1.1


def test_every_role_counts_alike() -> None:
    game = matrix_game("battle_of_the_sexes")  # the row prefers the opera, the column the football
    players = {"opera": mixed(game, np.array([1.0, 0.0])), "uniform": mixed(game, np.array([0.5, 0.5]))}
    found, _ = enumerated(arena(game, "row", "column"), players)
    np.testing.assert_allclose(found.payoffs, [[2.5, 1.25], [1.25, 1.25]], atol=1e-6)
    np.testing.assert_allclose(found.win_rates, [[0.5, 0.5], [0.5, 0.5]], atol=1e-6)
    sampled = played(arena(game, "row", "column"), players, 3, 0)  # rounded up to 4: no role is played more
    assert sampled.games.tolist() == [[4, 8], [8, 4]]
    assert sampled.payoffs[0, 0] == 2.5
    meta = analyse(found)
    np.testing.assert_allclose(meta.exploitability, [0.0, 0.0], atol=1e-6)
    assert meta.nemeses == (0, 1)


class Most(Game):
    """Three roles name a number and earn it; a 1 of the first ends the game."""

    roles = ("a", "b", "c")

    def play(self) -> Play:
        replies = []
        for role in self.roles:
            [reply] = yield [Ask(role, user("number?"), options=("0", "1"))]
            replies.append(int(reply.text))
            if role == "a" and reply.text == "1":
                return {"a": 1.0, "b": 0.0, "c": -1.0}  # nobody else is asked
        return dict(zip(self.roles, map(float, replies), strict=True))


class Says(Player):
    """Always one word."""

    def __init__(self, word: str) -> None:
        self.word = word

    def act(self, asks: list[Ask]) -> list[Reply]:  # type: ignore[override]
        return [Reply(self.word) for _ in asks]

    def probabilities(self, asks: list[Ask]) -> list[tuple[float, ...]]:  # type: ignore[override]
        return [tuple(float(option == self.word) for option in ask.options) for ask in asks]


def test_three_roles_and_a_game_that_ends_before_all_were_asked() -> None:
    players = {"one": Says("1"), "zero": Says("0")}
    here = arena(Most(), "a", "b", "c")
    exact, _ = enumerated(here, players)
    # "one" alone earns 1, 1, 1, the "zero" around it -1/2, 0, 0; "zero" alone 0, 0, -1, the "one" around it 1, 0, 1/2
    alone, rest = np.array([[0, 1], [-1 / 3, 0]]), np.array([[0, -1 / 6], [1 / 2, 0]])
    np.testing.assert_allclose(exact.payoffs, (alone + rest.T) / 2, atol=1e-9)
    sampled = played(here, players, 6, 0)
    np.testing.assert_allclose(sampled.payoffs, exact.payoffs, atol=1e-9)
    np.testing.assert_allclose(sampled.win_rates, exact.win_rates, atol=1e-9)


def test_of_three_roles_no_nash_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """A table of pairs is not the game that a mixture of these players plays in three roles."""
    meta, _ = enumerated(arena(Most(), "a", "b", "c"), {"one": Says("1"), "zero": Says("0")})
    found = analyse(meta)
    assert found.nash is None and record(meta, found)["meta_nash"] is None
    show(meta, found, None)
    out = capsys.readouterr().out
    assert "no Nash: pairwise payoffs do not define a game with 3 roles" in out
    assert [line.split("|")[4].strip() for line in out.splitlines() if "one" in line or "zero" in line] == ["-", "-"]


def test_the_nash_of_a_general_sum_is_that_of_the_payoffs(capsys: pytest.CaptureFixture[str]) -> None:
    """Chicken: 9 of 10 swerve; whoever always goes straight is far from an equilibrium against itself."""
    game = matrix_game("chicken", forfeit=20.0)
    players = {"swerve": mixed(game, np.array([1.0, 0.0])), "straight": mixed(game, np.array([0.0, 1.0]))}
    meta, _ = enumerated(arena(game, "row", "column"), players)
    found = analyse(meta)
    assert found.nash is not None and found.nash.weights == pytest.approx([0.9, 0.1])
    assert found.nash.gap == pytest.approx(0, abs=1e-12)
    assert found.exploitability == pytest.approx([1.0, 9.0])
    show(meta, found, None)
    assert "Nash: a symmetric equilibrium, by the tracing procedure" in capsys.readouterr().out


def test_equal_means_are_no_nemesis() -> None:
    """What everybody gets of everybody is 0.1, by sums of 3 and of 7 games."""
    meetings = [Meeting(i, j, 0.1, 0.1, 0.5) for i, j, n in ((0, 0, 3), (1, 1, 7), (0, 1, 6)) for _ in range(n)]
    found = analyse(from_games(["a", "b"], meetings))
    assert found.nemeses == (0, 1) and found.exploitability.tolist() == [0, 0]


def test_one_role_is_no_contest() -> None:
    with pytest.raises(SelfplayError, match="has only row"):
        arena(rps(), "row", column=Says("rock"))


def own(games: int = 2) -> list[Meeting]:
    """Two players, each against itself."""
    return [Meeting(i, i, 0.0, 0.0, 0.5) for i in (0, 1) for _ in range(games)]


def test_intervals_lie_between_what_was_earned_least_and_most() -> None:
    gains = [1.0, -1.0, 2.0, 0.0]
    found = from_games(["a", "b"], [Meeting(0, 1, g, -g, 0.5) for g in gains] + own())
    assert found.intervals is not None and found.edge_intervals is not None
    assert found.intervals[0, 1].tolist() == list(bounded(gains, -2.0, 2.0)) == found.edge_intervals[0, 1].tolist()
    with pytest.raises(SelfplayError, match="met 1 times"):
        from_games(["a", "b"], [Meeting(0, 1, 1.0, -1.0, 1.0), *own()])


def test_who_always_won_has_no_interval_of_width_0(capsys: pytest.CaptureFixture[str]) -> None:
    meta = from_games(["a", "b"], [Meeting(0, 1, 1.0, -1.0, 1.0)] * 8 + own())
    [[_, [low, high]], _] = record(meta, analyse(meta))["intervals"]  # type: ignore[misc]
    assert low < 0.35 and high == 1.0
    show(meta, analyse(meta), None)
    assert f"95 % intervals of at most +/-{1 - low:.3f}" in capsys.readouterr().out


def test_where_all_earned_the_same_there_is_no_interval(capsys: pytest.CaptureFixture[str]) -> None:
    meta = from_games(["a", "b"], [Meeting(0, 1, 0.0, 0.0, 0.5)] * 8 + own())
    found = record(meta, analyse(meta))
    assert found["intervals"] == [[None, None], [None, None]] and json.dumps(found, allow_nan=False)
    show(meta, analyse(meta), None)
    assert "no intervals: all games had the same returns" in capsys.readouterr().out


@pytest.mark.parametrize("p", [0.5, 0.9, 0.99, 0.995])
def test_cells_cover_the_expected_pay_off(p: float) -> None:
    """128 games that are won with this probability, by every possible number of wins."""
    wins, covered = np.arange(129), []
    for won in wins:
        games = [Meeting(0, 1, s, -s, 0.5) for s in [1.0] * won + [-1.0] * (128 - won)]
        found = from_games(["a", "b"], games + own())
        assert found.intervals is not None
        covered.append(found.intervals[0, 1, 0] <= 2 * p - 1 <= found.intervals[0, 1, 1])
    assert binom.pmf(wins, 128, p)[np.array(covered)].sum() >= 0.93


def test_noise_alone_has_the_cyclic_share_that_is_said() -> None:
    rng = np.random.default_rng(0)
    shares, said, beyond = [], [], 0
    for _ in range(40):
        n, count = 6, 50
        meetings = [Meeting(i, i, 0.0, 0.0, 0.5) for i in range(n) for _ in range(2)]
        for i, j in zip(*np.triu_indices(n, 1), strict=True):
            meetings += [Meeting(int(i), int(j), g, -g, 0.5) for g in rng.normal(size=count).tolist()]
        found = analyse(from_games([str(i) for i in range(n)], meetings))
        assert found.noise_share is not None
        shares.append(found.hodge.cyclic_share)
        said.append(found.noise_share)
        beyond += found.clear_cycles
    assert np.mean(shares) == pytest.approx(4 / 6, abs=0.05)
    assert np.mean(said) == pytest.approx(4 / 6, abs=0.1)
    assert beyond <= 1


def test_exploitability_is_what_others_get_against_a_player() -> None:
    payoffs = np.array([[0.0, 2.0, 1.0], [-2.0, 0.0, 3.0], [-1.0, -3.0, 0.0]])
    found = analyse(from_expectations(["a", "b", "c"], payoffs, 0.5 * (1 + np.sign(payoffs))))
    assert found.exploitability.tolist() == [0.0, 2.0, 3.0]
    assert found.nemeses == (0, 0, 1)
    assert found.mean_returns.tolist() == [1.5, 0.5, -2.0]
    assert found.order == [0, 1, 2]
    assert found.nash is not None
    np.testing.assert_allclose(found.nash.weights, [1, 0, 0], atol=1e-9)


def test_copies_tie_and_rounding_is_no_cycle() -> None:
    noise = 1e-15 * np.array([[0, 1, -1], [-1, 0, 1], [1, -1, 0]])
    found = analyse(from_expectations(["a", "b", "c"], noise, np.full((3, 3), 0.5)))
    assert found.cycles == () and found.hodge.cyclic_share == 0 and found.strongest is None
    assert found.nemeses == (0, 1, 2)
    still = from_expectations(["a", "b"], np.zeros((2, 2)), np.full((2, 2), 0.5))
    json.dumps(record(still, analyse(still)), allow_nan=False)


# --- the command line -------------------------------------------------------------------------------------------------


def test_a_real_run_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished(tmp_path / "kuhn", *KUHN, "checkpoint.every=2", "checkpoint.keep=0")
    capsys.readouterr()
    code, out, err = ended(capsys, run, "--games", 6)
    assert (code, err) == (0, "")
    found = report(run / "crossplay")
    assert list(found) == KEYS.split()
    assert found["names"] == ["base", "step-000002", "step-000004"]
    assert found["roles"] == ["first", "second"] and found["game"] == "Kuhn" and found["runs"] == [str(run)]
    assert np.array(found["games"]).tolist() == [[6, 12, 12], [12, 6, 12], [12, 12, 6]]
    assert np.array(found["intervals"]).shape == (3, 3, 2)
    assert set(found["ratings"]["elo"]) == set(found["elo"]["ratings"]) == set(found["names"])
    assert (run / "crossplay" / "crossplay.png").read_bytes().startswith(b"\x89PNG")
    for words in ("step-000004", "Elo [95 %]", "exploitability", "row against the column", "cyclic share"):
        assert words in out
    assert out.isascii()

    ended(capsys, run, "--games", 6, "--out", tmp_path / "again")
    assert report(tmp_path / "again") == found  # same seed, same games
    ended(capsys, run, "--games", 6, "--seed", 1, "--out", tmp_path / "other")
    assert report(tmp_path / "other")["payoffs"] != found["payoffs"]


def test_which_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = written(tmp_path / "run", {step: mixed(rps(), PURE[step % 3]) for step in range(1, 6)})
    for label, step in (("step-000002", 2), ("exploiter-000003", 3)):
        (run / "population" / label).mkdir(parents=True)
        mixed(rps(), PURE[step % 3]).save(run / "population" / label)

    def names(*args: str) -> list[str]:
        code, _, err = ended(capsys, run, "--exact", *args)
        assert code == 0, err
        return [str(name).removeprefix("step-00000") for name in report(run / "crossplay")["names"]]

    assert names() == ["base", "1", "2", "3", "4", "5"]
    assert names("--last") == ["base", "5"]
    assert names("--every", "2", "--no-base") == ["2", "4", "5"]
    assert names("--last", "--population") == ["base", "5", "population/step-000002", "population/exploiter-000003"]
    assert names("--every", "2", "--population") == ["base", "2", "4", "5", "population/exploiter-000003"]


def test_a_sweep_is_its_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = tmp_path / "sweep"
    for place in (0, 2, 10):
        written(sweep / str(place), {1: mixed(rps(), PURE[place % 3])}, f"seed={place}")  # seed: no part of this game
    (sweep / "multirun.yaml").touch()
    assert ended(capsys, sweep, sweep / "10" / ".." / "2", "--exact", "--no-base")[0] == 0
    found = report(sweep / "crossplay")
    assert len(found["runs"]) == 3
    assert found["names"] == ["0/step-000001", "2/step-000001", "10/step-000001"]
    np.testing.assert_allclose(found["payoffs"], RPS[[0, 2, 1]][:, [0, 2, 1]], atol=1e-9)


def test_the_base_is_the_learner_before_the_first_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished(
        tmp_path / "run", "game=matrix", "player=tabular", "player.spread=1", "regularizer=none", "steps=1",
        "episodes=8", "eval.every=1",
    )  # fmt: skip
    first = lines(run / "metrics.jsonl")[0]
    ended(capsys, run, "--exact")
    found = report(run / "crossplay")
    assert found["nash_conv"]["base"] == pytest.approx(first["eval"]["nash_conv"], abs=1e-6)


def test_a_language_model_with_adapters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ("regularizer=none", "eval=none", "steps=1", "episodes=8", "update.optimizer.lr=0.01")
    run = finished(tmp_path / "lm", "game=kuhn", "player=tiny_lora", *overrides)
    other = finished(tmp_path / "table", *KUHN)
    capsys.readouterr()
    code, _, err = ended(capsys, run, other, "--last", "--exact")
    assert code == 0, err
    found = report(run / "crossplay")
    assert found["names"] == ["lm/base", "lm/step-000001", "table/base", "table/step-000004"]
    payoffs = np.array(found["payoffs"])
    np.testing.assert_allclose(payoffs, -payoffs.T, atol=1e-9)
    assert np.abs(payoffs[0] - payoffs[1]).max() > 1e-4  # the adapters are told apart


def test_referees_of_the_run_pay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished(
        tmp_path / "lsp", "game=lsp_zero", "reward=verifier", "eval=none", "steps=1", "episodes=2", "game.answers=2",
        "player.max_tokens=12",
    )  # fmt: skip
    capsys.readouterr()
    code, _, err = ended(capsys, run, "--games", 2)
    assert code == 0, err
    assert report(run / "crossplay")["roles"] == ["challenger", "solver"]
    code, _, err = ended(capsys, run, "--exact")
    assert code == 1 and err.startswith("error: ") and err.count("\n") == 1


# --- mistakes ---------------------------------------------------------------------------------------------------------


def edited(run: Path, key: str, value: object) -> Path:
    """The same run with another config."""
    cfg = OmegaConf.load(run / "config.yaml")
    assert isinstance(cfg, DictConfig)
    OmegaConf.update(cfg, key, value)
    OmegaConf.save(cfg, run / "config.yaml")
    return run


def test_mistakes_are_told_in_a_line(population: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rock = mixed(rps(), PURE[0])
    other = edited(written(tmp_path / "other", {1: rock}), "game.name", "chicken")
    seats = edited(written(tmp_path / "seats", {1: rock}), "seats.column", "reference")
    bare = written(tmp_path / "bare", {})
    broken = written(tmp_path / "broken", {1: rock})
    (broken / "checkpoints" / "step-000001" / "table.safetensors").write_bytes(b"no")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "config.yaml").write_text("a: 1\n")
    (tmp_path / "file").touch()
    for args, words in (
        ([population, other], "play different games (game.name is rock_paper_scissors in the first, chicken in"),
        ([population, seats], "play different games (seats.column is learner in the first, reference"),
        ([seats], "the learner has only row"),
        ([bare], "has no checkpoint; give a run"),
        ([broken], "is not a table or is broken"),
        ([tmp_path / "nowhere"], "is not a run folder (it does not exist)"),
        ([tmp_path / "notes"], "config.yaml has no 'game'"),
        ([population, "--last", "--no-base"], "the only player is step-000003"),
        ([population, "--games", 1], "games is 1, but it must be a whole number, at least 2"),
        ([population, "--every", 0], "every is 0"),
        ([population, "--out", tmp_path / "file"], "cannot be created"),
    ):
        code, _, err = ended(capsys, *args)
        assert code == 1, args
        assert err.startswith("error: ") and err.count("\n") == 1 and words in err, err
    assert not (population / "crossplay").exists()


def test_help_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ended(capsys, "--help")
    assert code == 0
    for words in ("--games", "--exact", "--every", "--last", "--no-base", "--population", "--out", "--seed"):
        assert words in out
