"""Build the objects of a run from a composed config; `_target_`s are instantiated only here."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from selfplay import torchrun
from selfplay.checks import Mismatch, check_trainable
from selfplay.comparisons import check_answers
from selfplay.config import PAID
from selfplay.console import silence
from selfplay.core import Game, Player, Policy, Referee, SelfplayError, Update
from selfplay.derived import fill_in
from selfplay.evaluations.several import Several
from selfplay.experiment import Experiment
from selfplay.models.structure import bare
from selfplay.opponents.matchmaker import Matchmaker
from selfplay.parallel import Processes, current, using
from selfplay.partials import check_partials
from selfplay.players.language_model import LanguageModel
from selfplay.players.trained_model import TrainedModel
from selfplay.rollout import check_seats
from selfplay.trainee import Trainee
from selfplay.updates.gradient_step import GradientStep

MISTAKES = (  # exceptions that a constructor raises about its arguments
    TypeError,
    ValueError,
    AttributeError,
    ImportError,
    RuntimeError,
    AssertionError,
)


def build(cfg: DictConfig) -> Experiment:
    """Build every part of an experiment.

    Defaults that depend on the game are filled in (see `selfplay.derived`). `cfg` is not modified.

    Args:
        cfg: a composed config, e.g. from `selfplay.compose`.

    Raises:
        SelfplayError: a part cannot be built, a role has no player, or a seat names an unknown player.
    """
    game: Game = make(cfg.game, "game")
    cfg = copy.deepcopy(cfg)
    fill_in(cfg, game)
    check_seats(game, cfg.seats)
    for role in cfg.seats:
        if role not in game.roles:
            raise SelfplayError(
                f"seats.{role} is set, but {type(game).__name__} has no such role (roles: {', '.join(game.roles)}); "
                f"remove it with ~seats.{role}"
            )
    learner: Policy = make(cfg.player, "player")
    check_trainable(learner)
    if isinstance(learner, TrainedModel):
        current().wrap(bare(learner.model))
    if isinstance(learner, LanguageModel):
        current().on_reshard(learner.engine.rest)
    policies = {"learner": learner, "reference": learner.snapshot()}
    everyone: dict[str, Player] = {**policies, **others_of(cfg)}
    seated = {role: str(cfg.seats[role]) for role in game.roles}
    for role, name in seated.items():
        if name not in everyone:
            raise SelfplayError(
                f"seats.{role} is '{name}', but the players are {', '.join(everyone)}; choose one of them, or define "
                f"it with +players.{name}._target_=<module>.<class>"
            )
    if "learner" not in seated.values() and not OmegaConf.select(cfg, "update.teachers"):
        raise SelfplayError(
            f"no role is assigned to the learner (seats: {seated}); assign one, e.g. seats.{game.roles[0]}=learner"
        )
    referees = referees_of(cfg)
    with _making("update"):
        roles = [role for role, name in seated.items() if name == "learner"]
        made_update = make_later(cfg["update"], "update")
        update: Update = made_update(policy=learner, reference=policies["reference"], roles=roles)
    _check_teachers(update, seated)
    gradient_step, corrects = getattr(update, "gradient_step", None), hasattr(update, "mismatch")
    if isinstance(gradient_step, GradientStep) and (learner.samples_exactly or not corrects):
        gradient_step.compare = Mismatch(learner)
    check_answers(game, update, roles)
    _check_judged(game, referees)
    with _making("opponent"):
        opponent: Matchmaker = make_later(cfg.opponent, "opponent")(
            seated=seated, players=everyone, game=game, referees=referees
        )
    rollout, trainee = make(cfg.rollout, "rollout"), Trainee(learner, policies["reference"], update)
    return Experiment(game, opponent, policies, referees, update, rollout, evaluation_of(cfg), trainee)


@contextmanager
def joined(cfg: DictConfig) -> Iterator[Processes]:
    """Within the block, the run is shared by the processes that `parallel` configures.

    Raises:
        SelfplayError: `torchrun` started several processes but `parallel` is none, or the other way round.
    """
    size = torchrun.size()
    if cfg.parallel is None and size > 1:
        raise SelfplayError(
            f"torchrun started {size} processes, but parallel is none, so each of them would do the whole run; use "
            "parallel=ddp or parallel=fsdp"
        )
    processes = Processes() if cfg.parallel is None else make(cfg.parallel, "parallel")
    if processes.rank > 0:
        silence()
    with using(processes):
        yield processes
        processes.close()


def evaluation_of(cfg: DictConfig) -> Any:
    """The evaluation in `eval`, combined with any `extra_evals`; None if there is none.

    Raises:
        SelfplayError: `extra_evals` is set while `eval` is none.
    """
    further = {
        str(name): make(node, f"extra_evals.{name}") for name, node in cfg.extra_evals.items() if node is not None
    }
    if cfg.eval is None:
        if further:
            raise SelfplayError(
                f"extra_evals contains {', '.join(further)}, but eval is none; select one of them as eval"
            )
        return None
    first = make(cfg.eval, "eval")
    return Several(first, further) if further else first


def _check_judged(game: Game, referees: Mapping[str, Referee]) -> None:
    """Raise SelfplayError if the reward or quality referee scores no role of the game."""
    for name in PAID:
        if name in referees and not set(referees[name].roles or game.judged) & set(game.roles):
            raise SelfplayError(
                f"{name} is {type(referees[name]).__name__}, but {type(game).__name__} has no judged role (the game "
                f"itself decides who won), so the score would go unused; set {name}=none"
            )


def _check_teachers(update: Update, seated: Mapping[str, str]) -> None:
    """Raise SelfplayError unless every teacher of the update is assigned to a role."""
    for name in update.teachers:
        if name not in seated.values():
            raise SelfplayError(
                f"update.teachers names '{name}', which plays no role (seats: {dict(seated)}); choose a game with "
                "a teacher, for example game=demonstrations, or assign it a role"
            )


def others_of(cfg: DictConfig) -> dict[str, Player]:
    """The additional players of the config, by name."""
    return {str(name): make(node, f"players.{name}") for name, node in cfg.players.items() if node is not None}


def referees_of(cfg: DictConfig) -> dict[str, Referee]:
    """The referees of the config, by the name of their score."""
    named = {"reward": cfg.reward, "quality": cfg.quality, **cfg.probes}
    return {str(name): make(node, str(name)) for name, node in named.items() if node is not None}


def make(node: Any, name: str) -> Any:
    """Instantiate a part of the config.

    Args:
        node: its config, with a `_target_`.
        name: what error messages call it.

    Raises:
        SelfplayError: raised by the constructor, or for a wrong or missing argument.
    """
    with _making(name):
        made = _instance(node)
        check_partials(node, name)
        return made


def _instance(node: Any) -> Any:
    """Instantiate a node; lists and mappings are converted to plain Python containers."""
    return None if node is None else instantiate(node, _convert_="all")


def make_later(node: Any, name: str) -> Callable[..., Any]:
    """Like `make`, but return a factory that takes the remaining arguments; `_partial_` is implied.

    Raises:
        SelfplayError: as for `make`.
    """
    with _making(name):
        made: Callable[..., Any] = instantiate(node, _convert_="all", _partial_=True)
        check_partials(node, name)
        return made


@contextmanager
def _making(name: str) -> Iterator[None]:
    """Turn exceptions caused by the config into a SelfplayError."""
    try:
        yield
    except MissingMandatoryValue as error:
        key = str(error.full_key or name)
        raise SelfplayError(f"{key} is not set and has no default; set it with {key}=<value>") from error
    except (InstantiationException, *MISTAKES) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, (SelfplayError, *MISTAKES)):
            cause = cause.__cause__
        if isinstance(cause, SelfplayError):
            raise cause from None
        if cause is None:
            raise
        reason = str(cause).strip().split("\n")[0].rstrip(".")
        raise SelfplayError(
            f"'{name}' cannot be built from its config: {reason}; check its yaml under conf/"
        ) from error
