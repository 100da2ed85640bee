"""What the embedded models can do: the figures of experiments/tiny_model/README.md.

python experiments/tiny_model/measure.py [--model asset:tiny] [--reward asset:tiny-rm] [--out figures.json]
python experiments/tiny_model/measure.py --model asset:tiny-shots --reward none --examples --out shots.json
"""

import argparse
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from scipy import stats

from selfplay.core import Ask, Turn, user
from selfplay.engines.memory import keep_freed_memory
from selfplay.players.language_model import LanguageModel
from selfplay.referees.reward_model import RewardModel
from selfplay.referees.verifier import Verifier
from selfplay.tasks.tiny_world import TinyWorld, draw, held_out, parse, rubric
from selfplay.tasks.tiny_world.prompts import CHALLENGE

SAMPLES = 8


@dataclass(frozen=True)
class Answers:
    """Turns on the held-out questions (SAMPLES a question at temperature 1, in order) and whether each is right."""

    turns: list[Turn]
    right: list[bool]


def answer(player: LanguageModel, repeats: int, key: str) -> Answers:
    """Answers to every held-out question, `repeats` times each."""
    asks = [Ask("solver", user(q.text), key=f"{key}/{i}/{k}") for i, q in enumerate(held_out()) for k in range(repeats)]
    turns = [Turn(ask, reply) for ask, reply in zip(asks, player.act(asks), strict=True)]
    return Answers(turns, [x > 0 for x in Verifier(TinyWorld(per_cell=12, seed=0)).score(turns, {}).tolist()])


def auc(scores: list[float], right: list[bool]) -> float:
    """Area under the ROC curve: the chance that a right answer scores above a wrong one (ties count half)."""
    good = [s for s, r in zip(scores, right, strict=True) if r]
    bad = [s for s, r in zip(scores, right, strict=True) if not r]
    return float(stats.mannwhitneyu(good, bad).statistic / (len(good) * len(bad)))


def solver(player: LanguageModel) -> tuple[dict, Answers]:
    """Greedy accuracy, accuracy and pass@8 at temperature 1; over all, by level and by family."""
    questions = held_out()
    greedy, sampled = answer(player.with_temperature(0), 1, "measure"), answer(player, SAMPLES, "measure")
    groups = [sampled.right[i * SAMPLES : (i + 1) * SAMPLES] for i in range(len(questions))]
    cells: dict[str, list[tuple[bool, float, bool]]] = defaultdict(list)
    for question, one, group in zip(questions, greedy.right, groups, strict=True):
        for cell in ("all", f"level {question.level}", question.family):
            cells[cell].append((one, fmean(group), any(group)))
    names = ("greedy", "sampled", f"pass@{SAMPLES}")
    return {c: dict(zip(names, map(fmean, zip(*rows, strict=True)), strict=True)) for c, rows in cells.items()}, sampled


def challenger(player: LanguageModel, count: int = 512) -> dict:
    """The share of valid and of distinct questions; levels and families of the valid ones."""
    asks = [Ask("challenger", user(CHALLENGE), key=f"measure/challenger/{i}") for i in range(count)]
    texts = [reply.text for reply in player.act(asks)]
    valid = [q for q in map(parse, texts) if q is not None]
    levels = {str(k): sum(q.level == k for q in valid) / len(valid) for k in (1, 2, 3, 4)} if valid else {}
    families = len({q.family for q in valid})
    return {"valid": len(valid) / count, "distinct": len(set(texts)) / count, "levels": levels, "families": families}


def judge(player: LanguageModel, sampled: Answers) -> dict:
    """Both readings of the judge's verdict against the rubric and against the truth."""
    truth = [float(sum(rubric(t.ask.prompt, t.reply.text))) for t in sampled.turns]
    out = {}
    readings = {"expected": "quality=selfjudge", "written": "quality=selfjudge_written"}
    for name, choice in readings.items():
        referee = instantiate(config(choice).quality)
        scores = referee.score(sampled.turns, {"reference": player}).tolist()
        out[name] = {
            "mean absolute error": fmean(abs(a - b) for a, b in zip(scores, truth, strict=True)),
            "auc of right answers": auc(scores, sampled.right),
            "unreadable": referee.metrics["unreadable"],
        }
    return out


def in_context(player: LanguageModel) -> dict:
    """Greedy answers behind 1, 2 and 4 examples, whose answers are all right or all typical mistakes.

    Of the answers: the share that are right, and the share that are the typical mistake.
    """
    out, questions = {}, held_out()
    for shown in ("right", "mistakes"):
        for count in (1, 2, 4):
            rng, asks = Random(f"measure/{shown}/{count}"), []
            for i, question in enumerate(questions):
                messages: tuple = ()
                for example in (draw(rng) for _ in range(count)):
                    said = example.answer if shown == "right" else example.mistake
                    messages += (*user(example.text), {"role": "assistant", "content": said})
                asks.append(Ask("solver", (*messages, *user(question.text)), key=f"measure/{i}"))
            texts = [reply.text for reply in player.with_temperature(0).act(asks)]
            right = fmean(text == q.answer for text, q in zip(texts, questions, strict=True))
            mistaken = fmean(text == q.mistake for text, q in zip(texts, questions, strict=True))
            out[f"{count} {shown}"] = {"right": right, "typical mistake": mistaken}
    return out


def config(*overrides: str) -> DictConfig:
    """What run.py would compose."""
    with initialize_config_dir(str(Path(__file__).parents[2] / "conf"), version_base="1.3"):
        return compose("config", list(overrides))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="asset:tiny")
    parser.add_argument("--reward", default="asset:tiny-rm")
    parser.add_argument("--examples", action="store_true", help="measure answers behind examples, too")
    parser.add_argument("--out")
    args = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    player: LanguageModel = instantiate(config(f"player.path={args.model}").player)
    table, sampled = solver(player)
    figures = {
        "parameters": sum(p.numel() for p in player.parameters()),
        "solver": table,
        "challenger": challenger(player),
        "judge": judge(player, sampled),
    }
    if args.examples:
        figures["in context"] = in_context(player)
    if args.reward != "none":
        scores = RewardModel(args.reward, 512, {}, False, "sdpa", "float32", "cpu").score(sampled.turns, {}).tolist()
        right = [s for s, r in zip(scores, sampled.right, strict=True) if r]
        wrong = [s for s, r in zip(scores, sampled.right, strict=True) if not r]
        figures["reward model"] = {"auc": auc(scores, sampled.right), "right": fmean(right), "wrong": fmean(wrong)}
    print(json.dumps(figures, indent=1))
    if args.out:
        with open(args.out, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
