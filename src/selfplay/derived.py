"""Defaults that depend on the game: seats, Nature, the support of values, probes and the progress metric."""

from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf, open_dict

from selfplay.core import Game, Referee, SelfplayError

CHANCE, NATURE, LEARNER, REFERENCE = "chance", "nature", "learner", "reference"
LEARNT = ("player", "update")  # options of a further learner
SUPPORT = "support"  # option of critics


def fill_in(cfg: DictConfig, game: Game) -> None:
    """Set, in place, what the config leaves open and the game determines.

    * Learners: what a further learner's player and update leave open is taken from the run's own.
    * Seats: Nature plays the role "chance", the learner every other role. An entry that is null counts as left out.
    * Nature: a player that samples one of the options, unless a player of that name is configured. If the game's
      first ask of chance has no options, Nature must be configured explicitly.
    * The support of a critic: the bounds of the game's returns, if it states them.
    * Probes of the task that would score no role of this game are removed.
    * `progress_metric`: see `progress`. `optimized_metric`: the progress metric if set, else what the learner earns;
      for an evaluation without accuracy, its `figure`.

    Args:
        cfg: the composed config.
        game: the game that it describes.
    """
    with open_dict(cfg):
        _complete_learners(cfg)
        for role in [role for role in cfg.seats if cfg.seats[role] is None]:
            del cfg.seats[role]
        if CHANCE in game.roles and CHANCE not in cfg.seats and NATURE not in cfg.players and _offers_options(game):
            cfg.players[NATURE] = {"_target_": "selfplay.players.nature.Nature", "draw": None}
        for role in game.roles:
            if role not in cfg.seats and (role != CHANCE or NATURE in cfg.players):
                cfg.seats[role] = NATURE if role == CHANCE else LEARNER
        for player in (cfg.player, *(node.player for node in cfg.learners.values())):
            if SUPPORT in player and player[SUPPORT] is None and game.bounds is not None:
                player[SUPPORT] = list(game.bounds)
        for name, node in list(cfg.probes.items()):
            if OmegaConf.is_config(node) and _scores_no_role(node, game):
                cfg.probes[name] = None
        if cfg.optimized_metric == "eval/accuracy" and (figure := _figure(cfg)) is not None:
            cfg.optimized_metric = f"eval/{figure}"
        if cfg.optimized_metric is None:
            cfg.optimized_metric = cfg.progress_metric or _earned(cfg, game)
        if cfg.progress_metric is None:
            cfg.progress_metric = progress(cfg, game)


def _complete_learners(cfg: DictConfig) -> None:
    """Fill in the players and updates of further learners; null stands for no learner.

    Raises:
        SelfplayError: one has the first learner's name or other options.
    """
    given = OmegaConf.select(cfg, "learners") or {}  # missing in the config of an older run
    cfg.learners = {name: node for name, node in given.items() if node is not None}
    for name, node in cfg.learners.items():
        if name in (LEARNER, REFERENCE) or not str(name).isidentifier():
            raise SelfplayError(
                f"learners.{name} cannot be the name of a further learner; choose another word of letters and digits"
            )
        if not isinstance(node, DictConfig) or (unknown := set(node) - set(LEARNT)):
            wrong = "is no mapping" if not isinstance(node, DictConfig) else f"has the option '{min(unknown)}'"
            raise SelfplayError(f"learners.{name} {wrong}; it takes the options player and update")
        for key in LEARNT:
            own = node.get(key)
            if isinstance(own, str):
                raise SelfplayError(
                    f"learners.{name}.{key} is '{own}'; choose it with +{key}@learners.{name}.{key}={own}"
                )
            if own is None or "_target_" not in own:
                node[key] = OmegaConf.merge(cfg[key], own or {})


def _figure(cfg: DictConfig) -> str | None:
    """The `figure` of the evaluation's class, if it has one."""
    target = OmegaConf.select(cfg, "eval._target_")
    figure: str | None = getattr(get_object(target), "figure", None) if target else None
    return figure


def progress(cfg: DictConfig, game: Game) -> str:
    """The name of a metric that shows learning progress: the main metric of the evaluation, if there is one.

    Without an evaluation it is what the learner earns in its first role: the reward of judged turns, else the payoff.
    In a zero-sum game against itself that is uninformative, since one role's gain is another's loss; there it is the
    KL divergence from the reference.
    """
    figure = str(cfg.optimized_metric)
    if cfg.eval is not None and figure.startswith("eval/"):
        return figure
    mine, earned = _learner_roles(cfg, game), _earned(cfg, game)
    return f"{mine[0]}/kl" if game.zero_sum and len(mine) > 1 and earned.endswith("/payoff") else earned


def _earned(cfg: DictConfig, game: Game) -> str:
    mine = _learner_roles(cfg, game)
    judged = [role for role in mine if role in game.judged]
    if judged and cfg.reward is not None:
        return f"{judged[0]}/reward"
    return f"{mine[0]}/payoff" if mine else "loss"  # without a role, the learner only learns from teachers


def _learner_roles(cfg: DictConfig, game: Game) -> list[str]:
    return [role for role in game.roles if role in cfg.seats and cfg.seats[role] == LEARNER]


def _offers_options(game: Game) -> bool:
    """Whether the game's first asks of chance all have options."""
    return all(ask.options for ask in next(game.play()) if ask.role == CHANCE)


def _scores_no_role(probe: DictConfig, game: Game) -> bool:
    """Whether a probe of the task scores no role of the game."""
    made: Any = get_object(probe["_target_"]) if "_target_" in probe and "task" in probe else None
    if not (isinstance(made, type) and issubclass(made, Referee)):
        return False
    return not set(made.roles or game.judged) & set(game.roles)
