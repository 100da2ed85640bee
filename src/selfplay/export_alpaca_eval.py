"""Export answers in AlpacaEval's format, for judging with alpaca_eval.

python -m selfplay.export_alpaca_eval outputs/2026-01-01/12-00-00 --questions alpaca_eval.json --out outputs.json
python -m selfplay.export_alpaca_eval HuggingFaceTB/SmolLM2-135M-Instruct --questions alpaca_eval.json --out base.json

The model is the last checkpoint of a run, or is given by hub id, folder or asset:<name>. The questions are a JSON list
of objects with an "instruction", such as AlpacaEval's alpaca_eval.json. The output is the list that
`alpaca_eval --model_outputs` reads (github.com/tatsu-lab/alpaca_eval): "instruction", "output", "generator", and
"dataset" if the question has one.
"""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfplay.commandline import run_command

if TYPE_CHECKING:
    from selfplay.core import Policy


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="selfplay export-alpaca-eval",
        description="Write a model's answers to AlpacaEval's questions in the format that alpaca_eval reads.",
    )
    add = found.add_argument
    add("model", metavar="RUN_OR_MODEL", help="a run's folder (its last checkpoint), or a hub id, folder, asset:<name>")
    add("--questions", required=True, type=Path, metavar="FILE", help='a JSON list of objects with "instruction"')
    add("--out", required=True, type=Path, metavar="FILE", help="output file")
    add("--generator", metavar="NAME", help="name of the generator (default: RUN_OR_MODEL)")
    add("--temperature", type=float, default=0.0, metavar="T", help="0 is greedy (%(default)s); the paper uses 0.01")
    add("--max-tokens", type=int, default=None, metavar="N", help="per answer (default: the run's; 2048 for a model)")
    add(
        "--batch-size",
        type=int,
        default=None,
        metavar="N",
        help="answers per batch (default: the run's; 64 for a model)",
    )
    add("--trust", action="append", default=[], metavar="PACKAGE", help="another package whose code a run may call")
    add("--device", default="cpu", help='"cpu", "cuda", ... (%(default)s)')
    return found


def questions_of(file: Path) -> list[Mapping[str, Any]]:
    """Read the questions in a file, each with an "instruction".

    Raises:
        SelfplayError: the file is missing or invalid, or a question has no instruction.
    """
    from selfplay.core import SelfplayError
    from selfplay.tasks.sources import jsonl

    rows = list(jsonl(str(file)))
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get("instruction"), str) or not row["instruction"]:
            raise SelfplayError(
                f"question {number} of {file} has no instruction (its fields: {', '.join(row) or 'none'}); "
                "AlpacaEval's questions are objects with an instruction"
            )
    if not rows:
        raise SelfplayError(f"{file} has no questions; use AlpacaEval's alpaca_eval.json")
    return rows


def policy_of(
    model: str, device: str, max_tokens: int | None, batch_size: int | None, trusted: Sequence[str] = ()
) -> "Policy":
    """Load the last policy of a run, or a model with its own chat template.

    Raises:
        SelfplayError: it cannot be loaded.
    """
    from omegaconf import OmegaConf

    from selfplay.building import make
    from selfplay.runs.players import last_policy, trusted_run

    sizes = {"max_tokens": max_tokens, "batch_size": batch_size}
    if (Path(model) / "metrics.jsonl").is_file():
        run = trusted_run(model, trusted)
        given = {key: value for key, value in sizes.items() if value is not None}
        return last_policy(run, {**given, "device": device})
    node = {
        "_target_": "selfplay.players.language_model.LanguageModel",
        "path": model,
        "max_tokens": max_tokens or 2048,
        "batch_size": batch_size or 64,
        "choose": "text",
        "device": device,
    }
    policy: Policy = make(OmegaConf.create(node), "player")
    return policy


def outputs(policy: "Policy", questions: Sequence[Mapping[str, Any]], generator: str, temperature: float) -> list[Any]:
    """One record per question, in order."""
    from selfplay.evaluations.answers import answers

    replies = answers(policy.with_temperature(temperature), [row["instruction"] for row in questions], "alpaca_eval")
    return [
        {"instruction": row["instruction"], "output": reply, "generator": generator}
        | ({"dataset": row["dataset"]} if "dataset" in row else {})
        for row, reply in zip(questions, replies, strict=True)
    ]


def export(args: argparse.Namespace) -> None:
    """Generate the answers and write the file atomically."""
    from selfplay.console import say
    from selfplay.core import SelfplayError
    from selfplay.files import replacing

    if args.temperature < 0:
        raise SelfplayError(f"--temperature is {args.temperature}; use 0 for greedy answers, or more")
    if not args.out.parent.is_dir():
        raise SelfplayError(f"the folder of {args.out} does not exist; create it, or choose another --out")
    questions = questions_of(args.questions)
    policy = policy_of(args.model, args.device, args.max_tokens, args.batch_size, args.trust)
    found = outputs(policy, questions, args.generator or args.model, args.temperature)
    with replacing(args.out) as draft:
        draft.write_text(json.dumps(found, indent=2, ensure_ascii=True) + "\n", encoding="utf-8")
    say(f"written: {args.out} ({len(found)} answers)")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; on a user error, print one line on stderr and exit with 1."""
    args = parser().parse_args(arguments)
    if Path(args.model).exists():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no download needed

    from selfplay.openmp import fit_threads

    fit_threads()
    run_command(lambda: export(args))


if __name__ == "__main__":
    main()
