"""How good the frozen judge is, and what the policies of the runs reply to fixed instructions.

    python experiments/smollm2_lsp/measure.py judge
    python experiments/smollm2_lsp/measure.py replies multirun/smollm2_lsp_*

`judge` writes judge.csv, a row per judge and pair of replies of which one is known to be better, and challenges.csv,
what the untouched model writes to two prompts for a Challenger. `replies` writes replies.csv, a row per reply to the
instructions of instructions.jsonl: of the untouched model, sampled and greedy, and of each run's last checkpoint; what
is there stays.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, cast

import pandas as pd
from omegaconf import OmegaConf

from selfplay import compose
from selfplay.building import make
from selfplay.core import Ask, Episode, Reply, Turn, user
from selfplay.players.language_model import LanguageModel
from selfplay.referees.rules import repetition
from selfplay.rollout import collate
from selfplay.runs.players import last_policy, trusted_run
from selfplay.tasks.arithmetic import Arithmetic
from selfplay.tasks.sources import jsonl

HERE = Path(__file__).parent
SAMPLES = 2  # replies to an instruction
LONGEST = 128  # tokens of a reply that is only judged
CHALLENGES = 48  # of each prompt
REFUSAL = "I'm sorry, but I can't help with that."
JUDGES = ("log-likelihood", "grade", "rubric grade")


class Judge:
    """The frozen model, asked in three ways: the two of the reward (conf/reward/likelihood.yaml) and the quality."""

    def __init__(self) -> None:
        self.config = compose("experiment=smollm2_lsp")
        parts = make(self.config.reward, "reward").all.parts
        self.frozen: LanguageModel = make(OmegaConf.merge(self.config.player, {"lora": None}), "player")
        self.reader = self.frozen.with_temperature(self.config.player.temperature)
        self.reader.max_tokens = LONGEST
        self.referees = dict(
            zip(JUDGES, (parts["surprisal"], parts["grade"], make(self.config.quality, "quality")), strict=True)
        )

    def scores(self, turns: Sequence[Turn]) -> dict[str, list[float]]:
        """Judge -> one score per turn; higher is better."""
        players = {"reference": self.reader, "learner": self.reader}
        found = {name: referee.score(turns, players) for name, referee in self.referees.items()}
        return {name: (-x if name == "log-likelihood" else x).tolist() for name, x in found.items()}


def written(question: str, answer: str) -> Turn:
    """A turn whose reply is a given text."""
    return Turn(Ask("solver", user(question)), Reply(answer), player="text")


def sampled(policy: LanguageModel, prompts: Sequence[str], key: str, role: str = "solver") -> list[Turn]:
    """One reply of a policy to each prompt, at its temperature."""
    asks = [Ask(role, user(prompt), key=f"{key}/{i}") for i, prompt in enumerate(prompts)]
    replies = policy.act(asks)
    return [Turn(ask, reply, player="reference") for ask, reply in zip(asks, replies, strict=True)]


def pairs(own: Sequence[Turn]) -> dict[str, list[tuple[Turn, Turn]]]:
    """Name -> pairs of turns, the better one first."""
    rows = list(jsonl(str(HERE / "pairs.jsonl")))
    right = [written(row["question"], row["right"]) for row in rows]
    others = [right[(i + len(right) // 2) % len(right)].reply.text for i in range(len(right))]
    worse = {
        "right, wrong": [row["wrong"] for row in rows],
        "right, another question's": others,
        "right, three times over": [" ".join([row["right"]] * 3) for row in rows],
        "right, the question again": [row["question"] for row in rows],
        "right, a refusal": [REFUSAL for _ in rows],
    }
    found = {
        name: [(good, written(good.ask.messages[-1]["content"], text)) for good, text in zip(right, texts, strict=True)]
        for name, texts in worse.items()
    }
    rng, sums = Random(0), list[tuple[Turn, Turn]]()
    for item in Arithmetic(levels=[1], per_level=60, held_out_share=0.5).held_out():
        wrong = int(item.answer) + rng.choice([-3, -2, -1, 1, 2, 3])
        good, bad = (written(item.question, f"The answer is {number}.") for number in (item.answer, wrong))
        sums.append((good, bad))
    found["right, wrong number"] = sums
    swapped = [own[(i + len(own) // 2) % len(own)].reply.text for i in range(len(own))]
    found["own reply, own reply to another"] = [
        (turn, written(turn.ask.messages[-1]["content"], text)) for turn, text in zip(own, swapped, strict=True)
    ]
    return found


def judged(judge: Judge, instructions: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A row per judge and pair."""
    questions = [row["question"] for row in instructions]
    replies = [turn.reply.text for turn in sampled(judge.frozen, questions, "own")]
    own = [written(question, reply) for question, reply in zip(questions, replies, strict=True)]
    rows = []
    for name, of_set in pairs(own).items():
        better, worse = (judge.scores([pair[place] for pair in of_set]) for place in (0, 1))
        for by in JUDGES:
            both = zip(better[by], worse[by], strict=True)
            rows += [{"pairs": name, "judge": by, "better": x, "worse": y} for x, y in both]
        print(name, flush=True)
    return pd.DataFrame(rows).round(4)


def challenges(judge: Judge) -> pd.DataFrame:
    """What the untouched model writes to the prompt of the runs, and to the paper's."""
    paper = compose("prompts=paper").prompts.challenge.replace("{task}", "None").replace("{template}", "None")
    prompts = {"short": judge.config.prompts.challenge, "paper": paper}
    return pd.DataFrame(
        {"prompt": name, "text": turn.reply.text}
        for name, prompt in prompts.items()
        for turn in sampled(judge.frozen, [prompt] * CHALLENGES, f"challenges/{name}", "challenger")
    )


def replied(
    judge: Judge, policy: LanguageModel, instructions: Sequence[Mapping[str, Any]], seed: int, samples: int
) -> pd.DataFrame:
    """A row per reply, with its scores and what can be counted without a judge."""
    asked = [row for row in instructions for _ in range(samples)]
    turns = sampled(policy, [row["question"] for row in asked], f"replies/{seed}")
    cut = policy.truncated(collate([(Episode(0, []), turn) for turn in turns], learner=""))
    accepts = [row.get("accept") for row in asked]
    table = {
        "instruction": [i for i in range(len(instructions)) for _ in range(samples)],
        "sample": list(range(samples)) * len(instructions),
        **judge.scores(turns),
        "tokens": [len(turn.reply.reply_ids) for turn in turns],
        "cut off": cut.int().tolist(),
        "empty": [int(not turn.reply.text.strip()) for turn in turns],
        "repetition": [-repetition(turn) for turn in turns],
        "right": [
            None if pattern is None else int(re.search(pattern, turn.reply.text, re.I | re.S) is not None)
            for pattern, turn in zip(accepts, turns, strict=True)
        ],
        "text": [turn.reply.text for turn in turns],
    }
    return pd.DataFrame(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("judge", "replies"))
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    judge, instructions = Judge(), list(jsonl(str(HERE / "instructions.jsonl")))
    if args.what == "judge":
        challenges(judge).to_csv(args.out / "challenges.csv", index=False)
        judged(judge, instructions).to_csv(args.out / "judge.csv", index=False)
        return
    file = args.out / "replies.csv"
    table = pd.read_csv(file, keep_default_na=False, na_values={"right": [""]}) if file.is_file() else pd.DataFrame()
    for folder in sorted(args.folders):
        named = re.fullmatch(r"smollm2_lsp_(\w+)_(\d+)", folder.name)
        if named is None:
            raise SystemExit(f"{folder} is no folder of run.sh")
        arm, seed = named.groups()
        for name, of in (("start", int(seed)), ("greedy", 0), (arm, int(seed))):
            if len(table) and ((table["arm"] == name) & (table["seed"] == of)).any():
                continue
            policy = judge.frozen.with_temperature(0.0) if name == "greedy" else judge.frozen
            if name == arm:
                policy = cast(LanguageModel, last_policy(trusted_run(folder / "0", ()), {}))
            new = replied(judge, policy, instructions, of, 1 if name == "greedy" else SAMPLES).assign(arm=name, seed=of)
            table = pd.concat([table, new], ignore_index=True)
            table.round(4).to_csv(file, index=False)
            print(folder.name, name, flush=True)


if __name__ == "__main__":
    main()
