"""Rock-paper-scissors, drawn: where the strategy goes under four rules, and how far from equilibrium it is.

    python run.py -m experiment=rps_latest,rps_fictitious,rps_magnet,rps_psro hydra.sweep.dir=multirun/rps
    python experiments/small_games/trajectories.py multirun/rps --out experiments/small_games

Writes trajectories.png and results.json (experiment -> NashConv before and after of what its rule says arrives).
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from omegaconf import OmegaConf

RULES = {  # experiment -> what is drawn, and whether it is the learner or the average of its population
    "rps_latest": ("latest self: the last iterate", False),
    "rps_fictitious": ("stochastic fictitious play: the average", True),
    "rps_magnet": ("moving magnet: the last iterate", False),
    "rps_psro": ("PSRO: the meta-Nash mixture", True),
}
CORNERS = {"rock": (0.0, 0.0), "paper": (1.0, 0.0), "scissors": (0.5, 3**0.5 / 2)}


def read(folder: Path) -> tuple[str, list[dict[str, Any]]]:
    """A run's experiment and its evaluations, step by step."""
    overrides = OmegaConf.load(folder / "config.yaml").overrides
    [name] = [o.removeprefix("experiment=") for o in overrides if o.startswith("experiment=")]
    lines = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return name, [line["eval"] | {"step": line["step"]} for line in lines if "eval" in line]


def path(evals: list[dict[str, Any]], key: str, role: str) -> np.ndarray:
    """[steps, 2] places of a role's strategy in the triangle."""
    found = []
    for line in evals:
        [strategy] = [p for state, p in line[key].items() if state.startswith(f"{role}:")]
        found.append(sum(p * np.array(CORNERS[action]) for action, p in strategy.items()))
    return np.array(found)


def draw(runs: dict[str, list[dict[str, Any]]], out: Path) -> None:
    figure, axes = plt.subplots(1, len(RULES) + 1, figsize=(17, 3.6), width_ratios=[1] * len(RULES) + [1.35])
    corners = np.array([*CORNERS.values(), CORNERS["rock"]])
    for axis, (name, (title, averaged)) in zip(axes, RULES.items(), strict=False):
        axis.plot(*corners.T, color="0.6", lw=1)
        for place, label in zip(corners, CORNERS, strict=False):
            axis.annotate(label, place, ha="center", va="bottom" if place[1] else "top", fontsize=8)
        axis.plot(0.5, 3**0.5 / 6, "+", color="k", ms=9)
        for role, colour in (("row", "#0072B2"), ("column", "#D55E00")):
            places = path(runs[name], "mixture_strategy" if averaged else "strategy", role)
            axis.plot(*places.T, color=colour, lw=1, alpha=0.9, label=role)
            axis.plot(*places[0], "o", color=colour, ms=4)
            axis.plot(*places[-1], "s", color=colour, ms=4)
        axis.set_title(title, fontsize=9)
        axis.set_aspect("equal")
        axis.axis("off")
    axes[0].legend(fontsize=7, loc="upper left", frameon=False)
    for (name, (title, averaged)), colour in zip(RULES.items(), ("k", "#009E73", "#0072B2", "#CC79A7"), strict=True):
        key = "mixture_nash_conv" if averaged else "nash_conv"
        values = [max(line[key], 1e-6) for line in runs[name]]
        axes[-1].semilogy([line["step"] for line in runs[name]], values, color=colour, label=title)
    axes[-1].axhline(0.01, color="0.7", lw=0.8, ls="--")
    axes[-1].set_xlabel("step")
    axes[-1].set_ylabel("NashConv")
    axes[-1].legend(fontsize=7, frameon=False)
    figure.tight_layout()
    figure.savefig(out / "trajectories.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--out", type=Path, default=Path("experiments/small_games"))
    args = parser.parse_args()
    runs = dict(read(config.parent) for config in sorted(args.sweep.glob("*/config.yaml")))
    if missing := [name for name in RULES if name not in runs]:
        raise SystemExit(f"{args.sweep} has no run of {', '.join(missing)}; make it with the command above")
    draw(runs, args.out)
    results = {}
    for name, (_, averaged) in RULES.items():
        key = "mixture_nash_conv" if averaged else "nash_conv"
        results[name] = {key: {"before": runs[name][0][key], "after": runs[name][-1][key]}}
        print(f"{name:15s} {key:18s} {runs[name][0][key]:.4f} -> {runs[name][-1][key]:.6f}")
    (args.out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
