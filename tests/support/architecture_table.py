"""What becomes of every architecture that transformers knows: agrees, or is refused; the table of docs/players.md.

    python tests/support/architecture_table.py [--adapters no|one|all] [--workers 2]

Full fine-tuning, an adapter (one of nine by turns, or all of them), its way to disk and back, and as a reward model:
each against plain forward passes of transformers, unpadded, without a cache, one text at a time.
"""

import argparse
import json
import re
import warnings
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from architectures import KINDS, REWARD_KINDS, UNBUILT, apart, player_of, reward_of, saved, step
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from selfplay.core import Batch, SelfplayError
from selfplay.players.language_model import LanguageModel

DOCS = Path(__file__).parents[2] / "docs" / "players.md"
BEGIN, END = "<!-- architectures: written by tests/support/architecture_table.py -->", "<!-- end of architectures -->"
ADAPTERS = ("attention", "mlp", "embedding", "head", "all-linear", "dora", "rslora", "pissa", "modules_to_save")
PAIRS = [("add 3 and 4", "7"), ("", "x"), ("reverse abcd", "it is dcba"), ("add 3 and 4", "8"), ("q" * 90, "a" * 60)]
TOLERANCE = 1e-4


class WrongResult(AssertionError):
    """Something differs that must not."""


def adapter_of(model: PreTrainedModel, name: str) -> dict[str, Any]:
    """The LoRA options of an adapter on a model."""
    linear = [n for n, module in model.named_modules() if type(module) is torch.nn.Linear and "layer" in n]
    mlp = sorted({n.rsplit(".", 1)[-1] for n in linear if re.search(r"mlp|ffn|feed_forward|\bfc|intermediate", n)})
    attention = sorted({n.rsplit(".", 1)[-1] for n in linear if re.search("att|mixer", n)} - set(mlp))
    modules = {id(module): n.rsplit(".", 1)[-1] for n, module in model.named_modules()}
    embedding, head = (modules[id(m)] for m in (model.get_input_embeddings(), model.get_output_embeddings()))
    every = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
    return {
        "attention": {**every, "target_modules": attention or "all-linear"},
        "mlp": {**every, "target_modules": mlp or "all-linear"},
        "embedding": {**every, "target_modules": [embedding]},
        "head": {**every, "target_modules": [head]},
        "all-linear": every,
        "dora": {**every, "use_dora": True},
        "rslora": {**every, "use_rslora": True},
        "pissa": {**every, "init_lora_weights": "pissa"},
        "modules_to_save": {**every, "modules_to_save": [head]},
    }[name]


def adapter_by_turns(kind: str) -> str:
    return ADAPTERS[KINDS.index(kind) % len(ADAPTERS)]


def verdict(check: Callable[[], None]) -> str:
    """ "agrees", or the sentence with which the kind is refused.

    Raises:
        WrongResult: it is neither.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check()
    except SelfplayError as error:
        return re.sub(r"'/\S+'", "'...'", str(error))
    return "agrees"


def check_player(kind: str, adapter: str | None) -> None:
    """Sampler, learner and its gradient, before and after a step; then to disk and back, and snapshots.

    Raises:
        SelfplayError: the player is refused.
        WrongResult: something differs.
    """
    with TemporaryDirectory() as place:
        folder, kept = Path(place) / "model", Path(place) / "checkpoint"
        model = saved(kind, folder)
        lora = None if adapter is None else adapter_of(model, adapter)
        player = player_of(folder, lora=lora)
        try:
            if adapter is None:
                _as_saved(kind, player, model)
            batch = _agree(f"{kind} with {adapter} at first", player)
            before = player.snapshot()
            step(player, batch)
            batch = _agree(f"{kind} with {adapter} after a step", player)
            now = player.logprobs(batch).detach()
            player.save(kept)
            fresh = player_of(folder, lora=lora)
            fresh.load(kept)
            _same(f"{kind} with {adapter} from disk", fresh.logprobs(batch), now)
            if adapter is None:
                outside = AutoModelForCausalLM.from_pretrained(kept).eval()
                ids = batch.prompts[0][None]
                _same(f"{kind} outside", *(m(input_ids=ids, use_cache=False).logits for m in (outside, player.model)))
            old = before.logprobs(batch).detach()
            player.restore(before)
            _same(f"{kind} with {adapter} restored", player.logprobs(batch), old)
        except SelfplayError as error:
            raise WrongResult(f"{kind} with {adapter} is refused too late: {error}") from error


def _agree(what: str, player: LanguageModel) -> Batch:
    """The batch on which the player agrees."""
    found = apart(player)
    if not found.agrees:
        raise WrongResult(f"{what}: {found}")
    return found.batch


def _as_saved(kind: str, player: LanguageModel, model: PreTrainedModel) -> None:
    now, then = player.model.state_dict(), model.state_dict()
    if other := [name for name in then if name in now and not torch.equal(now[name], then[name])]:
        raise WrongResult(f"{kind} begins with other weights than its folder holds: {other[:3]}")


def _same(what: str, one: torch.Tensor, other: torch.Tensor) -> None:
    far = float((one - other).detach().abs().max())
    if not far < TOLERANCE:
        raise WrongResult(f"{what}: {far:.1e} apart")


def check_reward(kind: str) -> None:
    """Scores of a ragged batch against those of each pair alone.

    Raises:
        SelfplayError: the reward model is refused.
        WrongResult: they differ.
    """
    with TemporaryDirectory() as place:
        saved(kind, Path(place), reward=True)
        referee = reward_of(Path(place))
        with torch.no_grad():
            texts = [referee.conversations.fitted(pair)[0] for pair in PAIRS]
            alone = torch.cat([referee.model(input_ids=torch.tensor([text])).logits[:, 0] for text in texts])
        _same(f"{kind} as a reward model", referee.logits(PAIRS), alone)


# --- the table --------------------------------------------------------------------------------------------------------


def examined(kind: str, adapters: str) -> dict[str, str]:
    """What each check says of a kind, with "no" adapters, "one" by turns, or "all": column -> verdict."""
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    checks: dict[str, Callable[[], None]] = {}
    if kind in UNBUILT:
        return dict.fromkeys(_columns(kind), f"not tried: {UNBUILT[kind]}")
    if kind in KINDS:
        checks["full"] = partial(check_player, kind, None)
        for adapter in {"no": (), "one": (adapter_by_turns(kind),), "all": ADAPTERS}[adapters]:
            checks[adapter] = partial(check_player, kind, adapter)
    if kind in REWARD_KINDS:
        checks["reward"] = partial(check_reward, kind)
    found = {}
    for column, check in checks.items():
        if column != "reward" and found.get("full", "agrees") != "agrees":
            continue  # refused, whatever is laid over it
        try:
            found[column] = verdict(check)
        except Exception as error:
            found[column] = f"wrong: {type(error).__name__}: {error}"
    return found


def _columns(kind: str) -> list[str]:
    return ["full"] * (kind in KINDS) + ["reward"] * (kind in REWARD_KINDS)


def written(rows: dict[str, dict[str, str]]) -> str:
    """The table in Markdown; kinds of one verdict share a row."""
    players = {kind: row for kind, row in rows.items() if "full" in row}
    rewards = {kind: row["reward"] for kind, row in rows.items() if "reward" in row}
    groups: dict[str, list[str]] = defaultdict(list)
    for kind, row in players.items():
        said = row["full"]
        if said == "agrees":
            refused: dict[str, list[str]] = defaultdict(list)
            for name, text in row.items():
                if name not in ("full", "reward") and text != "agrees":
                    refused[_general(text)].append(name)
            said += "".join(f"; with {', '.join(names)}: {text}" for text, names in refused.items())
        groups[_general(said)].append(kind)
    lines = [f"{len(players)} kinds of causal language model", "", "| as a player | kinds |", "| --- | --- |"]
    lines += _rows(groups)
    groups = defaultdict(list)
    for kind, said in rewards.items():
        groups[_general(said)].append(kind)
    lines += ["", f"{len(rewards)} kinds of reward model", "", "| as a reward model | kinds |", "| --- | --- |"]
    return "\n".join([*lines, *_rows(groups)])


def _general(sentence: str) -> str:
    """A refusal without the names of classes, so that kinds refused alike share a row."""
    said = re.sub(r"(architecture|reward model|adapter into) \w+", r"\1 ...", sentence)
    said = re.sub(r"'\w+(Experts)'", r"'...\1'", said)
    said = re.sub(r"\{('[\w, ']+')\}", lambda found: "{" + ", ".join(sorted(found[1].split(", "))) + "}", said)
    return said.replace("|", "/").replace("\n", " ")


def _rows(groups: dict[str, list[str]]) -> list[str]:
    ordered = sorted(groups.items(), key=lambda group: (group[0] != "agrees", -len(group[1]), group[0]))
    return [
        f"| {said} ({len(kinds)}) | {', '.join(f'`{kind}`' for kind in sorted(kinds))} |" for said, kinds in ordered
    ]


def verdicts_in_docs() -> tuple[dict[str, str], dict[str, str]]:
    """Kind -> verdict of the two committed tables: of players and of reward models."""
    text = DOCS.read_text().partition(BEGIN)[2].partition(END)[0]
    players, _, rewards = text.partition("kinds of reward model")
    return _verdicts(players), _verdicts(rewards)


def _verdicts(table: str) -> dict[str, str]:
    rows = re.findall(r"^\| (.*) \(\d+\) \| (.*) \|$", table, re.MULTILINE)
    return {kind: said for said, kinds in rows for kind in re.findall(r"`([\w-]+)`", kinds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", choices=("no", "one", "all"), default="one")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rows", type=Path, help="a file of rows, one a line: what is in it is not examined again")
    options = parser.parse_args()
    every = sorted(set(KINDS) | set(REWARD_KINDS))
    rows: dict[str, dict[str, str]] = {}
    if options.rows and options.rows.is_file():
        rows = dict(json.loads(line) for line in options.rows.read_text().splitlines())
    rest = [kind for kind in every if kind not in rows]
    with ProcessPoolExecutor(options.workers) as pool:
        for kind, row in zip(rest, pool.map(partial(examined, adapters=options.adapters), rest), strict=True):
            rows[kind] = row
            print(kind, row, flush=True)
            if options.rows:
                with options.rows.open("a") as file:
                    file.write(json.dumps([kind, row]) + "\n")
    before, _, rest_of_docs = DOCS.read_text().partition(BEGIN)
    after = rest_of_docs.partition(END)[2]
    DOCS.write_text(f"{before}{BEGIN}\n\n{written(dict(sorted(rows.items())))}\n\n{END}{after}")


if __name__ == "__main__":
    main()
