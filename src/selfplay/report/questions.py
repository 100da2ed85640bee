"""Statistics of the Challenger's questions over training, and the gap between reward and ground truth."""

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
EPSILON = 0.1  # replaces a count of 0 matches (method 1 of Chen and Cherry 2014)


def asked(turns: pd.DataFrame, bins: int = 10, role: str = "challenger", sample: int = 100) -> pd.DataFrame:
    """Statistics of a role's questions over time: one row per run and bin of steps.

    Args:
        turns: the `turns` of a sweep, or some of them.
        bins: number of bins of equal length, the same for all runs.
        role: the role that asks; "chance" for the data of the data-driven baseline.
        sample: number of questions per bin on which diversity is measured, sampled with a fixed seed. All three
            measures depend on the number of texts, so only bins with equal `sampled` are comparable.

    Returns:
        `run`, `setting`, `seed`, `first` and `last` step of the bin, `questions` (their number); `valid` (share, from
        the score "invalid" if logged, else whether the tiny world can parse the question), `family/<name>` and
        `family/other`, `level/<1-4>` and `level/other` (shares of all questions, each set adding up to 1), `unique`
        (share of distinct texts), `sampled`, `distinct_1`, `distinct_2`, `self_bleu`.
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
    sampled = random.Random(key).sample(texts, min(sample, len(texts)))
    sentences = [words(text) for text in sampled]
    return {
        "questions": len(texts),
        "valid": 1.0 - float(part["score/invalid"].mean()) if scored else 1.0 - families["other"] / len(texts),
        **{f"family/{name}": families[name] / len(texts) for name in (*FAMILIES, "other")},
        **{f"level/{level}": levels[level] / len(texts) for level in (*LEVELS, "other")},
        "unique": len(set(texts)) / len(texts),
        "sampled": len(sampled),
        "distinct_1": distinct(sentences, 1),
        "distinct_2": distinct(sentences, 2),
        "self_bleu": self_bleu(sentences),
    }


def words(text: str) -> list[str]:
    """Split into words, numbers and punctuation marks: "what is 4+5?" has six."""
    return re.findall(r"\w+|[^\w\s]", text)


def ngrams(sentence: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    """Count the n-grams of a sentence."""
    return Counter(tuple(sentence[i : i + n]) for i in range(len(sentence) - n + 1))


def distinct(sentences: Sequence[Sequence[str]], n: int) -> float:
    """Distinct n-grams as a share of all n-grams (Li et al. 2016, arXiv 1510.03055); NaN if there are none."""
    counts = Counter(gram for sentence in sentences for gram in ngrams(sentence, n).elements())
    return len(counts) / counts.total() if counts else nan


def self_bleu(sentences: Sequence[Sequence[str]]) -> float:
    """Similarity of the sentences to one another, from 0 to 1 (Zhu et al. 2018, Texygen, arXiv 1802.01886).

    The mean BLEU of each sentence with all others as references. BLEU is that of nltk's `sentence_bleu` with smoothing
    method 1 and `auto_reweigh`: n-grams up to 4, or up to the length of a shorter sentence, so that a copy of a
    two-word question has a BLEU of 1. NaN for fewer than two sentences.
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
    """n-gram -> its largest and second-largest count in any sentence."""
    most: dict[tuple[str, ...], tuple[int, int]] = {}
    for counter in counts:
        for gram, count in counter.items():
            first, second = most.get(gram, (0, 0))
            most[gram] = (max(first, count), max(min(first, count), second))
    return most


def _in_others(most: tuple[int, int], mine: int) -> int:
    """The largest count in any sentence other than the one with the count `mine`."""
    return most[1] if mine == most[0] else most[0]


def _brevity(length: int, lengths: Counter[int]) -> float:
    """Logarithm of BLEU's brevity penalty against the other sentence of closest length; ties go to the shorter."""
    others = [n for n, count in lengths.items() if count > (n == length)]
    closest = min(others, key=lambda n: (abs(n - length), n))
    return min(0.0, 1 - closest / length)


def goodhart(sweep: Sweep, initial: int = 5, role: str = "solver") -> pd.DataFrame:
    """Training reward and ground truth of the same answers: one row per run and step.

    The gap is Δreward/σ_reward − Δtruth/σ_truth. Δ is the difference between the step's mean and the mean of the first
    `initial` steps; σ is the standard deviation over single answers in those steps, for the reward from the logged
    `reward_std`, for the truth (0 or 1) √(p(1−p)). The gap is 0 as long as reward and truth rise equally in these
    units. A gap that grows while the truth falls is over-optimisation of a proxy: Gao, Schulman and Hilton (2022),
    arXiv 2210.10760, who plot both against the distance to the initial policy (here `kl`, if logged). Easier questions
    raise both; an invalid question has truth 0 whatever the answer, so a Challenger that stops asking valid questions
    also opens the gap.

    Args:
        sweep: the runs.
        initial: number of first steps to compare with.
        role: the role that answers.

    Returns:
        `run`, `setting`, `seed`, `step`, `tokens`, `reward`, `truth`, `reward_change` and `truth_change` (in units of
        their σ), `gap`, `kl`, `accuracy` (held-out, in steps with an evaluation). Changes and gap are NaN if all of
        the first answers have the same score. Runs that logged no truth have no rows.
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
