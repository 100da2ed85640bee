"""The game that a person plays against a checkpoint, or two checkpoints against each other, without training."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from selfplay.building import REFERENCE, check_roles, make, others_of, referees_of, seated_by
from selfplay.composing import compose
from selfplay.config import OPTIONS, check_config, check_entry
from selfplay.core import Adaptive, Game, Player, Policy, Referee, SelfplayError
from selfplay.derived import fill_in
from selfplay.effect import check_effect, take_away
from selfplay.memory.sizes import take_auto
from selfplay.opponents.matchmaker import LEARNER
from selfplay.players.language_model import LanguageModel
from selfplay.players.tabular import Tabular
from selfplay.project import CONF, config_folders
from selfplay.runs.folder import difference
from selfplay.terminal.source import Source, here, player_of

ROOTS = ("game", "seats", "players", "player", "learners", "reward", "quality", "probes")  # what playing reads
TRAINING = (
    "update", "regularizer", "schedule", "opponent", "rollout", "eval", "extra_evals", "logger", "parallel", "steps",
    "episodes", "checkpoint", "resume", "sweep", "trust", "progress_metric", "optimized_metric", "seed", "device",
)  # fmt: skip


@dataclass(frozen=True)
class Match:
    """A game with its players and referees.

    Attributes:
        game: the rules.
        seats: role -> name of its player, as configured.
        players: name -> player.
        referees: score name -> referee.
        judges: "learner" and "reference", for the referees.
        learners: the names of the policies that play.
        config: of all these parts.
    """

    game: Game
    seats: Mapping[str, str]
    players: Mapping[str, Player]
    referees: Mapping[str, Referee]
    judges: Mapping[str, Policy]
    learners: tuple[str, ...]
    config: DictConfig

    @property
    def learner_roles(self) -> tuple[str, ...]:
        """The roles of the source's policies."""
        return tuple(role for role, name in self.seats.items() if name in self.learners)


def opened(source: Source, overrides: Sequence[str], device: str, temperature: float | None) -> Match:
    """Build the game, the players and the referees.

    Args:
        source: plays the roles of the learner.
        overrides: with `game=`, those of a run, see `selfplay.compose`; else changes of the run's own config.
        device: of all models.
        temperature: of the policies that play; None: as configured.

    Raises:
        SelfplayError: an override is wrong, a part cannot be built, a role has no player, or a table is to play another
            game than its own.
    """
    config = _configured(source, overrides)
    game: Game = make(config.game, "game")
    fill_in(config, game)
    check_roles(config, game)
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    config = OmegaConf.create({key: here(value, device) if key in ROOTS else value for key, value in plain.items()})
    policy, base = source.policies(config.player)
    check_table(source, policy, config, game)
    judges = {LEARNER: policy, REFERENCE: base}
    policies: dict[str, Policy] = dict(judges)
    for name, node in config.learners.items():
        policies[name], policies[f"{name}@start"] = source.policies(node.player, name)
    learners = (LEARNER, *config.learners)
    if temperature is not None:
        policies |= {name: policies[name].with_temperature(temperature) for name in learners}  # type: ignore[misc]
    players: dict[str, Player] = {**policies, **others_of(config)}
    seats = seated_by(config, game, players)
    for player in players.values():
        if isinstance(player, Adaptive):
            player.before(1, players)
    return Match(game, seats, players, referees_of(config), judges, learners, config)


def adviser(policy: Player) -> Player:
    """The same policy, which gives the likelihood of options even if it answers them with free text."""
    if isinstance(policy, LanguageModel) and policy.choose != "likelihood":
        policy = copy.copy(policy)
        policy.choose = "likelihood"
    return policy


def rival(source: Source, match: Match, device: str, temperature: float | None) -> Policy:
    """The policy of another source, for the same match.

    Raises:
        SelfplayError: it cannot be loaded, or is a table of another game.
    """
    policy = player_of(source, device, {})
    check_table(source, policy, match.config, match.game)
    return policy if temperature is None else policy.with_temperature(temperature)  # type: ignore[return-value]


def check_table(source: Source, policy: Policy, config: DictConfig, game: Game) -> None:
    """Raise SelfplayError if the policy is a table of another game, whose states this game never reaches."""
    if not isinstance(policy, Tabular) or source.run is None:
        return
    own = source.run.config.game
    found = difference(own, config.game, "game")
    if found is None:
        return
    built: Game = make(own, "game")
    if type(built) is not type(game) or vars(built) != vars(game):
        key, there, now = found
        raise SelfplayError(
            f"{source.name} is a table of the states of its own game ({key} is {there} there and {now} here); play "
            "that game, or give a language model"
        )


def _configured(source: Source, overrides: Sequence[str]) -> DictConfig:
    """The config of the game and its players.

    Raises:
        SelfplayError: an override is wrong, or concerns training.
    """
    groups = {path.name for conf in (CONF, *config_folders().values()) for path in conf.iterdir() if path.is_dir()}
    keys = {override: _key(override) for override in overrides}
    for override, key in keys.items():
        if key.split(".")[0] in TRAINING:
            raise SelfplayError(
                f"'{override}' concerns training, and nothing is trained here; leave it out (see --seed, --episodes "
                "and --device)"
            )
        if key == "player":
            raise SelfplayError(f"'{override}' names another player than {source.name}; leave it out")
    if source.run is None:
        return _composed([*source.choice, *overrides], overrides)
    if not {"game", "experiment"} & set(keys.values()):
        for override, key in keys.items():
            if key in groups:
                raise SelfplayError(
                    f"'{override}' chooses a part of a new set-up; name its game as well, such as game=lsp {override}"
                )
        return _changed(source, source.run.config, overrides)
    own = [override for override, key in keys.items() if key.startswith("player.")]
    config = _composed([*source.choice, *(o for o in overrides if o not in own)], overrides)
    with open_dict(config):
        config.player = _changed(source, source.run.config, own).player
    return config


def _composed(arguments: Sequence[str], overrides: Sequence[str]) -> DictConfig:
    """Compose and check a config as for a run."""
    try:
        config = compose(*arguments)
    except HydraException as error:
        raise SelfplayError(" ".join(str(error).split())) from error
    take_away(config, {})
    take_auto(config)
    check_effect(config, overrides, check_config(config))
    return config


def _changed(source: Source, config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """A run's config with some of its options changed."""
    config, missing = copy.deepcopy(config), object()
    for override in overrides:
        parsed = _parsed(override)
        key = parsed.key_or_group
        exists = OmegaConf.select(config, key, default=missing, throw_on_missing=False) is not missing
        if key.split(".")[0] not in ROOTS or parsed.is_delete() or not (exists or parsed.is_add()):
            raise SelfplayError(
                f"'{override}' changes nothing in the config of {source.name}; change an option that it has "
                f"({', '.join(ROOTS)}), or name a game with game="
            )
        OmegaConf.update(config, key, parsed.value(), force_add=True)
    for root in dict.fromkeys(_key(override).split(".")[0] for override in overrides):
        if root in OPTIONS:
            check_entry(config, root)
    return config


def _key(override: str) -> str:
    return str(_parsed(override).key_or_group)


def _parsed(override: str) -> Any:
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException as error:
        raise SelfplayError(
            f"'{override}' is not an override ({' '.join(str(error).split())}); write <option>=<value>"
        ) from error
