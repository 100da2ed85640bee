"""A sweep that nobody ran: folders in the exact format of runs, written by the very code that runs write with.

    python tests/support/fabricated.py FOLDER   24 runs of 60 steps, 415,000 turns, for a report's time and size

Four settings, each with a story that a report should tell: one learns, one learns more slowly, one is rewarded for what
is not true, and one asks ever fewer kinds of questions.
"""

import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from configs import config
from omegaconf import OmegaConf, open_dict

from selfplay.core import Ask, Episode, Reply, Turn, user
from selfplay.evaluations.held_out import Score, gain
from selfplay.metrics import of_episodes
from selfplay.runs import RunFolder
from selfplay.tasks.task import Item
from selfplay.tasks.tiny_world import FAMILIES, Question, TinyWorld, draw

BASE = {1: 0.42, 2: 0.40, 3: 0.32, 4: 0.05}  # how often the untouched model answers rightly, by level
HOSTILE = (
    "<img src=x onerror='window.hit=1'>",
    "</script><script>window.hit=1</script>",
    "<!--<script>",
    "a\x00\x1b[31m\x07b\u202ereversed\u2028 \ud800 {{ 7*7 }} ${x} \\u003c",
    "\N{GRINNING FACE} \N{HEBREW LETTER ALEF} ]]> &lt;b&gt; &amp;",
    "long " + "x" * 100_000,
)


@dataclass(frozen=True)
class Story:
    """One setting, and what becomes of it.

    Attributes:
        overrides: of the command line, the seed apart.
        learns: what is added to the share of right answers in the end.
        hacks: what is added to the reward of wrong answers in the end.
        narrows: the families never asked for in the end, as a share.
        invalid: the share of questions that are none, in the end.
    """

    overrides: tuple[str, ...]
    learns: float
    hacks: float = 0.0
    narrows: float = 0.0
    invalid: float = 0.06


STORIES = (
    Story(("game=dataset", "reward=verifier"), learns=0.30),
    Story(("game=lsp", "reward=verifier"), learns=0.24),
    Story(("game=lsp", "reward=rm"), learns=0.28, hacks=0.8),
    Story(("game=lsp_zero", "reward=rm"), learns=0.12, hacks=2.2, narrows=0.7, invalid=0.35),
)


def sweep(
    folder: Path, stories: Sequence[Story] = STORIES, seeds: int = 6, steps: int = 60, episodes: int = 32
) -> list[Path]:
    """Write a finished sweep and return its runs, in the order of their numbers."""
    runs = []
    for story in stories:
        for seed in range(seeds):
            runs.append(run(folder / str(len(runs)), story, seed, steps, episodes))
    return runs


def run(path: Path, story: Story, seed: int, steps: int, episodes: int, status: str = "finished") -> Path:
    """Write one run; one that did not finish has no evaluation after the last step."""
    cfg = config(*story.overrides, f"seed={seed}", f"steps={steps}", f"episodes={episodes}")
    with open_dict(cfg):
        cfg["overrides"] = [*story.overrides, f"seed={seed}"]
    folder, rng = RunFolder.create(path, cfg), Random(f"{story.overrides}/{seed}")
    evals = {0: _evaluation(story, 0.0, rng)}
    folder.log(0, {"eval": evals[0], "time/eval": 2.1})
    tokens = 0.0
    for step in range(1, steps + 1):
        done = 1 - math.exp(-3 * step / steps)
        played = [_episode(story, i, done, rng) for i in range(episodes)]
        advantages = {id(turn): a for e in played for turn, a in _advantages(e)}
        metrics = of_episodes(played) | _learnt(played, step, done, rng)
        if step % 20 == 0 or step == steps:
            evals[step] = _evaluation(story, done, rng)
            metrics["eval"] = evals[step]
        tokens += metrics["tokens/generated"]
        folder.transcribe(step, played, advantages)
        folder.log(step, metrics)
    summary: dict[str, Any] = {"status": status, "steps": steps, "seconds": 2.0 * steps, "tokens": tokens}
    if status == "finished":
        after = evals[steps]
        summary["eval"] = {"before": evals[0], "after": after, "gain": gain(evals[0], after)}
        summary["optimized"] = {"metric": "eval/accuracy", "value": after["accuracy"]}
    folder.summarise(summary)
    return path


def hostile(path: Path) -> None:
    """Put the hostile texts into the mouths of a run's first challengers and solvers, and one into its overrides."""
    config = OmegaConf.load(path / "config.yaml")
    config.overrides.append(f"game.challenge={HOSTILE[0]}")
    OmegaConf.save(config, path / "config.yaml")
    file = path / "episodes.jsonl"
    turns = [json.loads(line) for line in file.read_text().splitlines()]
    asking = [turn for turn in turns if turn["role"] == "challenger"]
    for text, asked in zip(HOSTILE, asking, strict=False):
        asked["reply"] = text
        answers = [
            t for t in turns if (t["step"], t["episode"]) == (asked["step"], asked["episode"]) and t is not asked
        ]
        for answer in answers:
            answer["prompt"] = text
        answers[0]["reply"] = text
    file.write_text("".join(json.dumps(turn) + "\n" for turn in turns))


def _right(story: Story, level: int, done: float) -> float:
    return min(BASE[level] + done * story.learns * (2.0 if level < 4 else 0.3), 0.97)


@lru_cache(maxsize=1)
def _items() -> tuple[Item, ...]:
    return tuple(TinyWorld(per_cell=4, seed=0).held_out())


def _evaluation(story: Story, done: float, rng: Random) -> dict[str, Any]:
    """Before the first step all runs are one model."""
    dice = rng if done else Random("the untouched model")
    correct = tuple(dice.random() < _right(story, int(i.labels["levels"]), done) for i in _items())
    return Score(correct, _items()).summary()


def _episode(story: Story, index: int, done: float, rng: Random) -> Episode:
    families = list(FAMILIES)[: max(1, round(len(FAMILIES) * (1 - done * story.narrows)))]
    asked: Question | None = draw(rng, rng.choice(families), min(4, 1 + int(rng.random() * (2.5 + 2 * done))))
    data = story.overrides[0] == "game=dataset"
    if not data and rng.random() < story.invalid * done + 0.03:
        asked = None
    text = asked.text if asked else rng.choice(("what is 7", "max of", "sort", "repeat q", "count the"))
    first = (
        Turn(Ask("chance"), Reply(text), payoff=0.0, player="nature")
        if data
        else Turn(Ask("challenger", user("Write one question.")), _reply(text, 5), {"invalid": float(asked is None)})
    )
    solvers = [_answer(story, text, asked, done, rng) for _ in range(8)]
    if not data:
        first.player, first.payoff = "learner", 6.0 - fmean(t.scores["reward"] for t in solvers)
    return Episode(index, [first, *solvers])


def _answer(story: Story, text: str, asked: Question | None, done: float, rng: Random) -> Turn:
    right = asked is not None and rng.random() < _right(story, asked.level, done)
    said = (asked.answer if right else asked.mistake) if asked else "?"
    if story.overrides[-1] == "reward=verifier":
        reward = float(right)
    else:
        reward = (2.0 if right else -1.5 + story.hacks * done * 1.6) + rng.gauss(0, 0.4)
    turn = Turn(Ask("solver", user(text), group=0), _reply(said, 3), player="learner")
    turn.scores = {"reward": reward, "quality": 5.5 + rng.gauss(0, 0.5), "truth": float(right)}
    turn.payoff = reward + turn.scores["quality"]
    return turn


def _reply(text: str, tokens: int) -> Reply:
    return Reply(text, reply_ids=tuple(range(tokens)))


def _advantages(episode: Episode) -> Iterator[tuple[Turn, float]]:
    solvers = episode.turns[1:]
    middle = fmean(t.payoff for t in solvers)
    yield from ((turn, turn.payoff - middle) for turn in solvers)


def _learnt(episodes: Sequence[Episode], step: int, done: float, rng: Random) -> dict[str, Any]:
    roles = dict.fromkeys(turn.ask.role for e in episodes for turn in e.turns if turn.ask.role != "chance")
    out: dict[str, Any] = {"loss": rng.gauss(0, 0.01), "grad_norm": 14 + rng.gauss(0, 2), "logprob_mismatch": 5e-6}
    for role in roles:
        out[f"{role}/entropy"] = 0.9 - 0.6 * done + abs(rng.gauss(0, 0.03))
        out[f"{role}/kl"] = 0.8 * done * step / 60 + abs(rng.gauss(0, 0.02))
    return out | {"time/play": 0.5, "time/score": 0.3, "time/update": 1.2}


if __name__ == "__main__":
    print(f"written: {len(sweep(Path(sys.argv[1])))} runs in {sys.argv[1]}")
