"""What the Challenger asks as training goes on, and how far the reward runs away from the truth."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from math import exp, log, nan

import pandas as pd

from selfplay.core import at_least
from selfplay.runs.sweep import Sweep
from selfplay.tasks.tiny_world import FAMILIES, LEVELS, parse

ORDER = 4  # the longest n-grams of BLEU
EPSILON = 0.1  # what counts in the place of no match (Chen and Cherry 2014, their method 1)


def asked(turns: pd.DataFrame, bins: int = 10, role: str = "challenger", sample: int = 100) -> pd.DataFrame:
    """What a role asks over time: one row a run and bin of steps.

    Args:
        turns: the `turns` of a sweep, or some of them.
        bins: how many stretches of steps of equal length, the same for all runs.
        role: who asks; "chance" for the data of the data-driven baseline.
        sample: questions a bin of which the diversity is measured, drawn by a fixed seed. All three measures depend on
            how many texts they look at, so bins are comparable only where they have as many (`sampled`).

    Returns:
        `run`, `setting`, `seed`, `first` and `last` step of the bin, `questions`; `valid` (share; by the score
        "invalid" where there is one, else whether the tiny world knows the question), `family/<name>` and
        `family/other`, `level/<1-4>` and `level/other` (shares of all questions, each set adding up to 1), `unique`
        (share of different texts), `sampled`, `distinct_1`, `distinct_2`, `self_bleu`.
    """
    at_least(1, bins=bins, sample=sample)
    mine = turns[turns["role"] == role]
    rows = []
    if len(mine):
        first, last = int(mine["step"].min()), int(mine["step"].max())
        span = last - first + 1
        parts = min(bins, span)
        place = (mine["step"].astype(int) - first) * parts // span
        for (run, number), part in mine.groupby([mine["run"].astype(str), place], sort=False):
            start, stop = (first + -(-edge * span // parts) for edge in (number, number + 1))
            row = {"run": run, "setting": str(part["setting"].iloc[0]), "seed": part["seed"].iloc[0]}
            rows.append(row | {"first": start, "last": stop - 1} | _described(part, f"{run}/{number}", sample))
    return pd.DataFrame(rows, columns=None if rows else ["run", "setting", "seed", "first", "last", "questions"])


def _described(part: pd.DataFrame, key: str, sample: int) -> dict[str, float]:
    texts = part["reply"].tolist()
    known = [parse(text) for text in texts]
    families = Counter("other" if q is None else q.family for q in known)
    levels = Counter("other" if q is None else q.level for q in known)
    scored = "score/invalid" in part and part["score/invalid"].notna().all()
    drawn = random.Random(key).sample(texts, min(sample, len(texts)))
    sentences = [words(text) for text in drawn]
    return {
        "questions": len(texts),
        "valid": 1.0 - float(part["score/invalid"].mean()) if scored else 1.0 - families["other"] / len(texts),
        **{f"family/{name}": families[name] / len(texts) for name in (*FAMILIES, "other")},
        **{f"level/{level}": levels[level] / len(texts) for level in (*LEVELS, "other")},
        "unique": len(set(texts)) / len(texts),
        "sampled": len(drawn),
        "distinct_1": distinct(sentences, 1),
        "distinct_2": distinct(sentences, 2),
        "self_bleu": self_bleu(sentences),
    }


def words(text: str) -> list[str]:
    """Words, numbers and marks: "what is 4+5?" has six."""
    return re.findall(r"\w+|[^\w\s]", text)


def ngrams(sentence: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    """How often each run of n words occurs."""
    return Counter(tuple(sentence[i : i + n]) for i in range(len(sentence) - n + 1))


def distinct(sentences: Sequence[Sequence[str]], n: int) -> float:
    """Different n-grams as a share of all n-grams (Li et al. 2016, arXiv 1510.03055); NaN where there is none."""
    counts = Counter(gram for sentence in sentences for gram in ngrams(sentence, n).elements())
    return len(counts) / counts.total() if counts else nan


def self_bleu(sentences: Sequence[Sequence[str]]) -> float:
    """How much the sentences are like one another, from 0 to 1 (Zhu et al. 2018, Texygen, arXiv 1802.01886).

    The mean over the sentences of BLEU against all the others as references. BLEU as nltk's `sentence_bleu` with its
    smoothing method 1 and `auto_reweigh`: n-grams up to 4, or up to the sentence's length where that is less, so that
    a copy of a question of two words counts as one. NaN for fewer than two sentences.
    """
    if len(sentences) < 2:
        return nan
    counts = [[ngrams(sentence, n) for sentence in sentences] for n in range(1, ORDER + 1)]
    best = [_two_most(of_order) for of_order in counts]
    lengths = Counter(map(len, sentences))
    total = 0.0
    for i, sentence in enumerate(sentences):
        mine = [of_order[i] for of_order in counts[: min(ORDER, len(sentence))]]
        shared = [sum(min(c, _in_others(top[gram], c)) for gram, c in m.items()) for m, top in zip(mine, best)]  # noqa: B905
        if not shared or shared[0] == 0:
            continue
        precision = sum(log((hits or EPSILON) / m.total()) for hits, m in zip(shared, mine, strict=True)) / len(mine)
        total += exp(precision + _brevity(len(sentence), lengths))
    return total / len(sentences)


def _two_most(counts: Sequence[Counter[tuple[str, ...]]]) -> dict[tuple[str, ...], tuple[int, int]]:
    """The largest and the second-largest count of each n-gram in one sentence."""
    most: dict[tuple[str, ...], tuple[int, int]] = {}
    for counter in counts:
        for gram, count in counter.items():
            first, second = most.get(gram, (0, 0))
            most[gram] = (max(first, count), max(min(first, count), second))
    return most


def _in_others(most: tuple[int, int], mine: int) -> int:
    """The largest count in another sentence than the one that has `mine`."""
    return most[1] if mine == most[0] else most[0]


def _brevity(length: int, lengths: Counter[int]) -> float:
    """The logarithm of BLEU's brevity penalty against the other sentence of the closest length, the shorter if two."""
    others = [n for n, count in lengths.items() if count > (n == length)]
    closest = min(others, key=lambda n: (abs(n - length), n))
    return min(0.0, 1 - closest / length)


def goodhart(sweep: Sweep, initial: int = 5, role: str = "solver") -> pd.DataFrame:
    """The reward that is trained on beside the truth, step by step, on the same answers: one row a run and step.

    The gap is Δreward/σ_reward − Δtruth/σ_truth. Δ is the change of the step's mean against the mean of the first
    `initial` steps; σ is the standard deviation over single answers in those steps, of the reward from the logged
    `reward_std`, of the truth (0 or 1) √(p(1−p)). Both are then in units of how much answers differed to begin with,
    and the gap is 0 as long as reward and truth rise alike. A gap that grows while the truth falls is over-optimisation
    of a proxy: Gao, Schulman and Hilton (2022), arXiv 2210.10760, who draw both against the distance to the initial
    policy (`kl` here, where it was logged). An easier question raises both; an invalid one has the truth 0 whatever
    the answer, so a Challenger that stops asking questions opens the gap, too.

    Returns:
        `run`, `setting`, `seed`, `step`, `tokens`, `reward`, `truth`, `reward_change` and `truth_change` (in their σ),
        `gap`, `kl`, `accuracy` (held-out, where it was evaluated). Changes and gap are NaN where all of the first
        answers were scored alike, so that there is no unit. Runs that logged no truth have no rows.
    """
    at_least(1, initial=initial)
    names = {"reward": f"{role}/reward", "truth": f"{role}/truth", "spread": f"{role}/reward_std", "kl": f"{role}/kl"}
    names["accuracy"] = "eval/accuracy"
    table = sweep.metrics[["run", "setting", "seed", "step", "tokens"]].copy()
    for name, column in names.items():
        table[name] = sweep.metrics.get(column, nan)
    logged = table.dropna(subset=["reward", "truth", "spread"])
    parts = [_changed(part.copy(), initial) for _, part in logged.groupby("run", sort=False)]
    columns = ["run", "setting", "seed", "step", "tokens", "reward", "truth", "reward_change", "truth_change", "gap"]
    columns += ["kl", "accuracy"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def _changed(part: pd.DataFrame, initial: int) -> pd.DataFrame:
    start = part.nsmallest(initial, "step")
    p = float(start["truth"].mean())
    variances = {
        "reward": float((start["spread"] ** 2).mean() + start["reward"].var(ddof=0)),
        "truth": p * (1 - p),
    }
    for name, variance in variances.items():
        unit = variance**0.5 if variance > 1e-12 else nan
        part[f"{name}_change"] = (part[name] - float(start[name].mean())) / unit
    part["gap"] = part["reward_change"] - part["truth_change"]
    return part
