"""A league: a growing population of frozen snapshots of the learner, sampled as opponents."""

import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import numpy as np

from selfplay import digests
from selfplay.core import Episode, Game, Player, Policy, Referee, SelfplayError, at_least
from selfplay.opponents.matchmaker import LEARNER, Matchmaker, Seats, check_learner_roles, rotated
from selfplay.opponents.rules import Rule, uniform
from selfplay.opponents.table import Table, pairs, results
from selfplay.options import Period, Seed, Share, Steps, Whole
from selfplay.rollout import play, score_and_pay
from selfplay.theory.strategies import expected_returns, strategy_of
from selfplay.theory.tree import Tree, enumerate_game
from selfplay.trainee import Change

BASE = "step-000000"  # the first member: the learner before the first step


class League(Matchmaker):
    """Self-play against past snapshots: in each episode the learner plays one role, sampled members the others.

    A snapshot joins every `every` steps. With `restart`, the learner then restarts from the base, like an oracle in
    PSRO. With `exploit` > 0, each period begins with an exploiter: the learner restarts from the base and plays only
    against the newest main snapshot. The exploiter then joins the population, and the main learner resumes (AlphaStar's
    exploiters, Vinyals et al. 2019, time-sharing one set of weights).

    Args:
        seated: role -> name, as configured in `seats`.
        players: all initial players, by name; "learner" and "reference" among them.
        game: the game.
        referees: score name -> referee, to pay the games of `matches`.
        rule: (table, names) -> sampling probabilities, see `selfplay.opponents.rules`.
        every: steps of the main learner between snapshots.
        latest: fraction of the main learner's episodes played against itself.
        restart: whether the learner restarts from the base after each snapshot.
        exploit: exploiter steps before each `every` steps of the main learner; 0 for none.
        matches: games of each new member against every member, to fill the table; 0 uses training episodes only.
        exact: whether to compute the table by enumeration instead (enumerable games only).
        memory: per-step decay factor of the learner's own results, from 0 to 1.
        steps: total steps of the run, to check that it does not end during an exploiter; None if unknown.
        seed: seed of the opponent sampling.

    Raises:
        SelfplayError: the learner has fewer than two roles, the run would end during an exploiter, or the rule does not
            apply to this game.
    """

    def __init__(
        self,
        seated: Seats,
        players: Mapping[str, Player],
        game: Game,
        referees: Mapping[str, Referee],
        rule: Rule = uniform,
        every: Period = 10,
        latest: Share = 0.0,
        restart: bool = False,
        exploit: Steps = 0,
        matches: Whole = 0,
        exact: bool = False,
        memory: Share = 0.95,
        steps: Steps | None = None,
        seed: Seed = 0,
    ) -> None:
        super().__init__(seated, players)
        at_least(1, **{"opponent.every": every})
        at_least(0, **{"opponent.exploit": exploit, "opponent.matches": matches})
        for name, share in (("opponent.latest", latest), ("opponent.memory", memory)):
            if not 0 <= share <= 1:
                raise SelfplayError(f"{name} is {share}; choose a number from 0 to 1")
        if restart and exploit:
            raise SelfplayError(
                f"opponent.restart is true and opponent.exploit is {exploit}, but the main learner resumes after "
                "an exploiter; use only one of the two"
            )
        check_learner_roles(self.learner_roles)
        self.game, self.referees, self.rule = game, referees, rule
        self.every, self.latest, self.restart, self.exploit = every, latest, restart, exploit
        self.matches, self.exact, self.memory, self.seed = matches, exact, memory, seed
        if steps is not None and self._exploiting(steps):
            raise SelfplayError(
                f"steps={steps} ends while an exploiter is training; make it a multiple of {every + exploit} "
                "(opponent.every + opponent.exploit)"
            )
        base = players["reference"]
        assert isinstance(base, Policy)
        self.base = base
        self.population: dict[str, Policy] = {}
        self.table = Table([LEARNER], len(self.learner_roles))
        self.exploits = False  # whether an exploiter is training now
        self._tree: Tree | None = None
        self._join(BASE, base)
        self.mixture()  # fails early if the rule does not apply

    @property
    def learner(self) -> Policy:
        learner = self.players[LEARNER]
        assert isinstance(learner, Policy)
        return learner

    @property
    def main(self) -> Policy:
        return self.population[self._newest()] if self.exploits else self.learner

    def _exploiting(self, step: int) -> bool:
        return (step - 1) % (self.every + self.exploit) < self.exploit

    # --- seats --------------------------------------------------------------------------------------------------------

    def seats(self, step: int) -> Callable[[int], Seats]:
        names = list(self.population)
        weights, alone = self._draws(step, names)

        def seat(index: int) -> Seats:
            rng = Random(f"{self.seed}/{step}/{index}/opponents")
            if rng.random() < alone:
                return self.seated
            return rotated(self.seated, self.learner_roles, index, lambda role: rng.choices(names, weights)[0])

        return seat

    def enumerate_seatings(self, step: int) -> list[tuple[Seats, float]]:
        names = list(self.population)
        weights, alone = self._draws(step, names)
        likely = [(name, weight) for name, weight in zip(names, weights, strict=True) if weight > 0]
        found: list[tuple[Seats, float]] = [(self.seated, alone)] if alone else []
        for mine in self.learner_roles if alone < 1 else ():
            others = [role for role in self.learner_roles if role != mine]
            for members in product(likely, repeat=len(others)):
                taken = dict(zip(others, (name for name, _ in members), strict=True))
                share = math.prod(weight for _, weight in members)
                found.append(({**self.seated, **taken}, (1 - alone) * share / len(self.learner_roles)))
        return found

    def _draws(self, step: int, names: Sequence[str]) -> tuple[list[float], float]:
        """The sampling probability of each member, and the probability of playing against itself."""
        if self._exploiting(step):
            return np.eye(len(names))[names.index(self._newest())].tolist(), 0.0
        return self.rule(self.table, names).tolist(), self.latest

    def mixture(self) -> dict[str, float]:
        names = list(self.population)
        return dict(zip(names, self.rule(self.table, names).tolist(), strict=True))

    # --- growth -------------------------------------------------------------------------------------------------------

    def before(self, step: int) -> Change | None:
        if (step - 1) % (self.every + self.exploit) != 0 or not (self.exploit or self.restart):
            return None
        self.table.fade(LEARNER, 0.0)
        self.exploits = self.exploit > 0
        return "set_aside" if self.exploits else "restart"

    def after(self, step: int, episodes: Sequence[Episode]) -> dict[str, Any]:
        self.table.fade(LEARNER, self.memory)
        met: dict[str, list[tuple[float, float]]] = {}
        for episode in episodes:
            found = [r for r in results(episode, self.learner_roles) if r[0] != r[1]]
            self.table.record([r for r in found if LEARNER in r[:2]], episode.weight)
            for name, other, gained, _ in found:
                if name == LEARNER:
                    met.setdefault(other, []).append((gained, episode.weight))
        done = step % (self.every + self.exploit)
        if done == 0:
            self._join(f"step-{step:06d}", self.learner.snapshot())
        elif done == self.exploit:
            self._join(f"exploiter-{step:06d}", self.learner.snapshot())
            self.table.fade(LEARNER, 0.0)
            self.exploits = False
        return {
            "opponents": {
                name: {"games": sum(w for _, w in got), "return": fmean([r for r, _ in got], [w for _, w in got])}
                for name, got in met.items()
            },
            "opponent/population": float(len(self.population)),
        }

    def then(self, step: int) -> Change | None:
        return "bring_back" if self.exploit and step % (self.every + self.exploit) == self.exploit else None

    def _newest(self) -> str:
        """The newest member that is not an exploiter."""
        return [name for name in self.population if name.startswith("step-")][-1]

    def _join(self, name: str, policy: Policy) -> None:
        self.population[name] = self.players[name] = policy
        self.table.enter(name)
        if self.exact:
            self._enumerate(name)
        elif self.matches:
            self._play_members(name)

    def _play_members(self, name: str) -> None:
        """Play `matches` games against each member, itself included, with rotating roles."""
        others = list(self.population)

        def seat(index: int) -> Seats:
            return self._facing(name, others[index // self.matches], index)

        count = len(others) * self.matches
        episodes = play(self.game, self.players, range(count), f"{self.seed}/{name}/matches", seat)
        score_and_pay(self.game, episodes, self.referees, {LEARNER: self.learner, "reference": self.base})
        for episode in episodes:
            self.table.record(results(episode, self.learner_roles))

    def _facing(self, name: str, other: str, index: int) -> Seats:
        """Seats with `name` in the learner's role number `index` (cyclically) and `other` in its other roles."""
        mine = self.learner_roles[index % len(self.learner_roles)]
        return {r: (name if r == mine else other) if r in self.learner_roles else n for r, n in self.seated.items()}

    def _enumerate(self, name: str) -> None:
        """Compute the results against each member by enumeration instead of playing."""
        self._tree = self._tree or enumerate_game(self.game)
        for other in self.population:
            for index in range(len(self.learner_roles)):
                seats = self._facing(name, other, index)
                strategy = strategy_of(self._tree, {role: self.players[n] for role, n in seats.items()})
                paid = expected_returns(self._tree, strategy)
                self.table.record(pairs({role: seats[role] for role in self.learner_roles}, paid))

    # --- on disk ------------------------------------------------------------------------------------------------------

    def store(self, folder: Path) -> None:
        """Save every member but the base to its own folder, atomically."""
        for name, policy in self.population.items():
            target = folder / name
            if name == BASE or target.exists():
                continue
            draft = folder / f".writing-{name}"
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            policy.save(draft)
            digests.write(draft)
            os.replace(draft, target)

    def state_dict(self) -> dict[str, object]:
        return {"population": list(self.population), "table": self.table.state_dict(), "exploits": self.exploits}

    def load_state_dict(self, state: Mapping[str, Any], folder: Path, read: Callable[[Path], Policy]) -> None:
        for name in state["population"]:
            if name != BASE:
                digests.check(folder / name, "resume from another run")
                self.population[name] = self.players[name] = read(folder / name)
        self.table.load_state_dict(state["table"])
        self.exploits = state["exploits"]
