"""What a config leaves to the game: who sits where, Nature, which probes there are, which metric tells how it goes."""

from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf, open_dict

from selfplay.core import Game, Referee

CHANCE, NATURE, LEARNER = "chance", "nature", "learner"


def fill_in(cfg: DictConfig, game: Game) -> None:
    """Write down, in place, what follows from the game where the config does not say it.

    * Seats: Nature in the role "chance", the learner in every other.
    * Nature: a player who draws one of the options, where there is no player of that name. A game that begins by asking
      chance for more than one of its options must be told who replies.
    * Probes of the task: none that would measure no role of this game.
    * `progress_metric`: see `progress`; `optimized_metric`: the progress metric where that is given, else what the
      learner earns.
    """
    with open_dict(cfg):
        if CHANCE in game.roles and CHANCE not in cfg.seats and NATURE not in cfg.players and _offers_options(game):
            cfg.players[NATURE] = {"_target_": "selfplay.players.nature.Nature", "draw": None}
        for role in game.roles:
            if role not in cfg.seats and (role != CHANCE or NATURE in cfg.players):
                cfg.seats[role] = NATURE if role == CHANCE else LEARNER
        for name, node in list(cfg.probes.items()):
            if OmegaConf.is_config(node) and _measures_nobody(node, game):
                cfg.probes[name] = None
        if cfg.optimized_metric is None:
            cfg.optimized_metric = cfg.progress_metric or _earned(cfg, game)
        if cfg.progress_metric is None:
            cfg.progress_metric = progress(cfg, game)


def progress(cfg: DictConfig, game: Game) -> str:
    """The name of a metric that moves when something is learnt.

    It is what the learner earns in its first role: the reward of judged turns, else the pay-off. Where the learner
    plays a zero-sum game against itself, that tells nothing, for a gain of one role is a loss of another; there it is
    the figure that the evaluation is about, or without an evaluation how far the policy is from where it began.
    """
    mine, earned = _learner_roles(cfg, game), _earned(cfg, game)
    if not game.zero_sum or len(mine) < 2 or not earned.endswith("/payoff"):
        return earned
    figure = str(cfg.optimized_metric)
    return figure if cfg.eval is not None and figure.startswith("eval/") else f"{mine[0]}/kl"


def _earned(cfg: DictConfig, game: Game) -> str:
    mine = _learner_roles(cfg, game)
    judged = [role for role in mine if role in game.judged]
    if judged and cfg.reward is not None:
        return f"{judged[0]}/reward"
    return f"{mine[0]}/payoff" if mine else "loss"  # without a role the learner is taught


def _learner_roles(cfg: DictConfig, game: Game) -> list[str]:
    return [role for role in game.roles if role in cfg.seats and cfg.seats[role] == LEARNER]


def _offers_options(game: Game) -> bool:
    """Whether chance has options wherever it is asked first."""
    return all(ask.options for ask in next(game.play()) if ask.role == CHANCE)


def _measures_nobody(probe: DictConfig, game: Game) -> bool:
    """Whether a probe of the task scores no role of the game."""
    made: Any = get_object(probe["_target_"]) if "_target_" in probe and "task" in probe else None
    if not (isinstance(made, type) and issubclass(made, Referee)):
        return False
    return not set(made.roles or game.judged) & set(game.roles)
