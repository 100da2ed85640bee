"""Build the objects of a run from a composed config; `_target_`s are instantiated only here."""

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
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
from selfplay.opponents.matchmaker import LEARNER, Matchmaker
from selfplay.parallel import Processes, current, using
from selfplay.partials import check_partials
from selfplay.players.language_model import LanguageModel
from selfplay.players.trained_model import TrainedModel
from selfplay.rollout import check_seats
from selfplay.trainee import Trainee
from selfplay.updates.gradient_step import GradientStep

REFERENCE = "reference"
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
    check_roles(cfg, game)
    learners = learners_of(cfg)
    policies: dict[str, Policy] = {}
    for name, (player, _) in learners.items():
        policies |= _learner_and_start(name, player)
    others = others_of(cfg)
    if taken := set(policies) & set(others):
        raise SelfplayError(f"'{min(taken)}' is the name of a learner and of players.{min(taken)}; rename one of them")
    everyone: dict[str, Player] = {**policies, **others}
    seated = seated_by(cfg, game, everyone)
    trainees = {name: _trainee(name, learners, policies, game, seated) for name in learners}
    referees = referees_of(cfg)
    _check_judged(game, referees)
    with _making("opponent"):
        made = make_later(cfg.opponent, "opponent")
        if len(trainees) > 1 and getattr(made, "func", made) is not Matchmaker:
            raise SelfplayError(
                f"there are several learners ({', '.join(trainees)}), but the opponents of {cfg.opponent._target_} "
                "are past selves of one; use opponent=latest"
            )
        opponent: Matchmaker = made(seated=seated, players=everyone, game=game, referees=referees)
    rollout = make(cfg.rollout, "rollout")
    return Experiment(game, opponent, policies, referees, rollout, evaluation_of(cfg), trainees)


def check_roles(cfg: DictConfig, game: Game) -> None:
    """Raise SelfplayError unless the config seats a player in every role of the game, and in no other role."""
    check_seats(game, cfg.seats)
    for role in cfg.seats:
        if role not in game.roles:
            raise SelfplayError(
                f"seats.{role} is set, but {type(game).__name__} has no such role (roles: {', '.join(game.roles)}); "
                f"remove it with ~seats.{role}"
            )


def seated_by(cfg: DictConfig, game: Game, players: Collection[str]) -> dict[str, str]:
    """Role -> the name of its player.

    Raises:
        SelfplayError: a seat names none of the players.
    """
    seated = {role: str(cfg.seats[role]) for role in game.roles}
    for role, name in seated.items():
        if name not in players:
            raise SelfplayError(
                f"seats.{role} is '{name}', but the players are {', '.join(players)}; choose one of them, or define "
                f"it with +players.{name}._target_=<module>.<class>"
            )
    return seated


def learners_of(cfg: DictConfig) -> dict[str, tuple[Any, Any]]:
    """Name -> the configs of the player and of the update of each learner; "learner" is the first."""
    further = {str(name): (node.player, node["update"]) for name, node in cfg.learners.items()}
    return {LEARNER: (cfg.player, cfg["update"]), **further}


def _own_weights(node: Any, others: Collection[str], shared: Mapping[str, float]) -> Any:
    """The config of an update without the weights that it shares with those of other learners' roles."""
    weights = OmegaConf.select(node, "role_weights")
    if not weights or not others:
        return node
    found = copy.deepcopy(node)
    found.role_weights = {r: weight for r, weight in weights.items() if r not in others or shared.get(r) != weight}
    return found


def _learner_and_start(name: str, node: Any) -> dict[str, Policy]:
    """A learner and a frozen copy of it, by name."""
    first = name == LEARNER
    learner: Policy = make(node, "player" if first else f"learners.{name}.player")
    check_trainable(learner)
    if isinstance(learner, TrainedModel):
        current().wrap(bare(learner.model))
    if isinstance(learner, LanguageModel):
        current().on_reshard(learner.engine.rest)
    return {name: learner, REFERENCE if first else f"{name}@start": learner.snapshot()}


def _trainee(
    name: str,
    learners: Mapping[str, tuple[Any, Any]],
    policies: Mapping[str, Policy],
    game: Game,
    seated: Mapping[str, str],
) -> Trainee:
    """A learner with its update, which gets the roles that the learner plays."""
    first, (_, node) = name == LEARNER, learners[name]
    learner, reference = policies[name], policies[REFERENCE if first else f"{name}@start"]
    roles = [role for role, player in seated.items() if player == name]
    taught = {name, *(OmegaConf.select(node, "teachers") or ())}
    others = [role for role, player in seated.items() if player in learners and player not in taught]
    shared = OmegaConf.select(learners[LEARNER][1], "role_weights") or {}
    if not roles and not OmegaConf.select(node, "teachers"):
        raise SelfplayError(
            f"no role is assigned to {'the learner' if first else f'learners.{name}'} (seats: {dict(seated)}); assign "
            f"one, e.g. seats.{game.roles[0]}={name}"
        )
    where = "update" if first else f"learners.{name}.update"
    with _making(where):
        made_update = make_later(_own_weights(node, others, shared), where)
        update: Update = made_update(policy=learner, reference=reference, roles=roles)
    _check_teachers(update, seated)
    gradient_step, corrects = getattr(update, "gradient_step", None), hasattr(update, "mismatch")
    if isinstance(gradient_step, GradientStep) and (learner.samples_exactly or not corrects):
        gradient_step.compare = Mismatch(learner)
    check_answers(game, update, roles)
    return Trainee(learner, reference, update)


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
