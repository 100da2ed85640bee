"""From a composed config to the things of a run; the one place where `_target_`s become objects."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from selfplay.checks import Mismatch, check_trainable
from selfplay.comparisons import check_answers
from selfplay.config import PAID
from selfplay.core import Game, Player, Policy, Referee, SelfplayError, Update
from selfplay.derived import fill_in
from selfplay.evaluations.several import Several
from selfplay.experiment import Experiment
from selfplay.opponents.matchmaker import Matchmaker
from selfplay.partials import check_partials
from selfplay.rollout import check_seats
from selfplay.trainee import Trainee
from selfplay.updates.gradient_step import GradientStep

MISTAKES = (
    TypeError,
    ValueError,
    AttributeError,
    ImportError,
    RuntimeError,
    AssertionError,
)  # of a constructor, about its arguments


def build(cfg: DictConfig) -> Experiment:
    """Build everything that the config names.

    Whatever the config leaves to the game is filled in, see `selfplay.derived`; `cfg` stays as it is.

    Raises:
        SelfplayError: a part cannot be made, a role has no player, or a seat names nobody.
    """
    game: Game = make(cfg.game, "game")
    cfg = copy.deepcopy(cfg)
    fill_in(cfg, game)
    check_seats(game, cfg.seats)
    for role in cfg.seats:
        if role not in game.roles:
            raise SelfplayError(
                f"seats.{role} is given, but {type(game).__name__} has no such role (roles: {', '.join(game.roles)}); "
                f"remove it with ~seats.{role}"
            )
    learner: Policy = make(cfg.player, "player")
    check_trainable(learner)
    policies = {"learner": learner, "reference": learner.snapshot()}
    everybody: dict[str, Player] = {**policies, **others_of(cfg)}
    seated = {role: str(cfg.seats[role]) for role in game.roles}
    for role, name in seated.items():
        if name not in everybody:
            raise SelfplayError(
                f"seats.{role} is '{name}', but the players are {', '.join(everybody)}; name one of them"
            )
    if "learner" not in seated.values() and not OmegaConf.select(cfg, "update.teachers"):
        raise SelfplayError(
            f"the learner sits nowhere (seats: {seated}); seat it, for example seats.{game.roles[0]}=learner"
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
            seated=seated, players=everybody, game=game, referees=referees
        )
    rollout, trainee = make(cfg.rollout, "rollout"), Trainee(learner, policies["reference"], update)
    return Experiment(game, opponent, policies, referees, update, rollout, evaluation_of(cfg), trainee)


def evaluation_of(cfg: DictConfig) -> Any:
    """The config's evaluation, with the further ones where there are any; None for none.

    Raises:
        SelfplayError: there are further ones, but none of the run's own.
    """
    further = {
        str(name): make(node, f"extra_evals.{name}") for name, node in cfg.extra_evals.items() if node is not None
    }
    if cfg.eval is None:
        if further:
            raise SelfplayError(
                f"extra_evals has {', '.join(further)}, but eval is none; make one of them the run's eval"
            )
        return None
    first = make(cfg.eval, "eval")
    return Several(first, further) if further else first


def _check_judged(game: Game, referees: Mapping[str, Referee]) -> None:
    """Raise SelfplayError where what is to be paid measures nobody."""
    for name in PAID:
        if name in referees and not set(referees[name].roles or game.judged) & set(game.roles):
            raise SelfplayError(
                f"{name} is {type(referees[name]).__name__}, but {type(game).__name__} has no role that is judged (it "
                f"says itself who won), so nobody would be paid for it; take {name}=none"
            )


def _check_teachers(update: Update, seated: Mapping[str, str]) -> None:
    """Raise SelfplayError unless all the update's teachers sit somewhere."""
    for name in update.teachers:
        if name not in seated.values():
            raise SelfplayError(
                f"update.teachers names '{name}', who sits nowhere (seats: {dict(seated)}); take a game with a "
                "teacher, for example game=demonstrations, or seat it"
            )


def others_of(cfg: DictConfig) -> dict[str, Player]:
    """The config's further players, by name."""
    return {str(name): make(node, f"players.{name}") for name, node in cfg.players.items() if node is not None}


def referees_of(cfg: DictConfig) -> dict[str, Referee]:
    """The config's referees, by the name of their score."""
    named = {"reward": cfg.reward, "quality": cfg.quality, **cfg.probes}
    return {str(name): make(node, str(name)) for name, node in named.items() if node is not None}


def make(node: Any, name: str) -> Any:
    """Instantiate one part of the config.

    Raises:
        SelfplayError: its own, or a wrong or missing argument, told with the part's name.
    """
    with _making(name):
        made = _instance(node)
        check_partials(node, name)
        return made


def _instance(node: Any) -> Any:
    """Instantiate a node of the config; constructors get plain lists and dicts, which any library takes."""
    return None if node is None else instantiate(node, _convert_="all")


def make_later(node: Any, name: str) -> Callable[..., Any]:
    """A function that makes a part from its config and from what else it is given; the config need not say `_partial_`.

    Raises:
        SelfplayError: as of `make`.
    """
    with _making(name):
        made: Callable[..., Any] = instantiate(node, _convert_="all", _partial_=True)
        check_partials(node, name)
        return made


@contextmanager
def _making(name: str) -> Iterator[None]:
    """Tell a mistake of the config in one sentence."""
    try:
        yield
    except MissingMandatoryValue as error:
        key = str(error.full_key or name)
        raise SelfplayError(f"{key} is not given, and it has no default; give it with {key}=<value>") from error
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
            f"'{name}' cannot be made from its config: {reason}; look at its yaml under conf/"
        ) from error
