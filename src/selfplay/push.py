"""Uploads a checkpoint with a model card to the Hugging Face Hub, or writes the folder that would be uploaded.

selfplay push outputs/2026-01-01/12-00-00 --out card              write the folder, upload nothing
selfplay push outputs/2026-01-01/12-00-00 --to me/my-model --private
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfplay.commandline import run_command

if TYPE_CHECKING:
    from selfplay.model_card import Base
    from selfplay.runs.folder import RunFolder

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
REPLACED = ["*.safetensors", "*.safetensors.index.json", "adapter_config.json", "config.json"]
DRY = "or write the folder without uploading it, with --out FOLDER"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="selfplay push",
        description="Upload a run's checkpoint to the Hugging Face Hub: weights, tokenizer, a model card with the "
        "evaluation before and after training, and the curves. No optimizer state is uploaded and no folder of this "
        "machine is named.",
        epilog="The token comes from HF_TOKEN or `hf auth login`. Tables (player=tabular) are rejected.",
    )
    add = found.add_argument
    add("run", type=Path, metavar="RUN", help="the folder of a run")
    add("--to", metavar="REPO", help="the repository, as user/name; it is created if it does not exist")
    add("--step", type=int, metavar="N", help="the checkpoint after step N (default: the last one)")
    add("--out", type=Path, metavar="FOLDER", help="write a new folder with what would be uploaded; upload nothing")
    add("--private", action="store_true", help="only you and your organization can read the repository")
    add("--base", metavar="REPO", help="hub id of the model that the run started from, if it was a local folder")
    add("--license", metavar="NAME", help="licence of the result, as in the Hub's metadata (default: the base's)")
    return found


def push(args: argparse.Namespace) -> None:
    """Write the folder, and upload it unless `--out` is given.

    Raises:
        SelfplayError: an option is missing or wrong, the run has no such checkpoint or its learner is no language
            model, a file would contain a secret, or the upload is impossible.
    """
    from tempfile import TemporaryDirectory

    from selfplay.console import say
    from selfplay.errors import SelfplayError
    from selfplay.files import to_disk
    from selfplay.runs import RunFolder

    run = RunFolder.open(args.run)
    if args.out is None:
        _check_upload(args.to)
    elif args.out.exists():
        raise SelfplayError(f"{args.out} already exists; choose another --out")
    for option, value in (("--to", args.to), ("--base", args.base)):
        if value is not None and not HUB_ID.fullmatch(value):
            raise SelfplayError(f"{option} is '{value}'; give the id of a repository, such as me/my-model")
    checkpoint = _checkpoint(run, args.step)
    with TemporaryDirectory(prefix="selfplay-push-") as temporary:
        folder = Path(temporary) / "folder"
        base = assemble(run, checkpoint, folder, args.to or args.out.name, args.base, args.license)
        if base.licence is None:
            say("note: the licence of the base model is unknown, so the card names none; state it with --license")
        if args.out is None:
            say(f"uploaded: {_uploaded(folder, args.to, args.private, checkpoint.name)}")
            return
        with to_disk(args.out):
            args.out.absolute().parent.mkdir(parents=True, exist_ok=True)
            shutil.move(folder, args.out)
    say(f"written: {args.out}")


def assemble(
    run: RunFolder, checkpoint: Path, folder: Path, title: str, base_id: str | None, licence: str | None
) -> Base:
    """Write the folder to upload: weights, tokenizer, digests, README.md and curves.png.

    Args:
        run: the run.
        checkpoint: one of its checkpoints.
        folder: must not exist yet.
        title: see `model_card`.
        base_id, licence: what the user says about the base model.

    Returns:
        The base model.

    Raises:
        SelfplayError: see `push`.
    """
    from selfplay import digests
    from selfplay.errors import SelfplayError
    from selfplay.files import to_disk
    from selfplay.model_card import model_card, without_folders
    from selfplay.models.averages import COPIED, WHOLE
    from selfplay.models.base_model import CONFIG
    from selfplay.plots import draw_curves
    from selfplay.secrets import secret_error, secrets, suspicious

    adapter = (checkpoint / CONFIG).is_file()
    if not adapter and not (checkpoint / WHOLE).is_file():
        raise SelfplayError(
            f"{checkpoint} is not a language model but a table, which only selfplay reads; share the run's folder "
            "instead, or give a run of a language model"
        )
    if key := next(secrets(run.config), None):
        raise SelfplayError(secret_error(key))
    digests.check(checkpoint, "give another --step")
    base = _base(run, checkpoint, base_id, licence)
    with to_disk(folder):
        folder.mkdir()
        for file in sorted(checkpoint.iterdir()):
            if file.suffix == ".safetensors":
                shutil.copyfile(file, folder / file.name)
            elif file.suffix in COPIED:
                _copy_without_paths(file, folder / file.name)
        if adapter:
            settings = json.loads((checkpoint / CONFIG).read_text(encoding="utf-8"))
            settings |= {"base_model_name_or_path": base.hub or base.name}
            (folder / CONFIG).write_text(json.dumps(without_folders(settings), indent=2), encoding="utf-8")
        digests.write(folder)  # before the card, which people edit
        draw_curves(run.metrics(), folder / "curves.png", str(run.config.optimized_metric or ""))
        card = model_card(run, int(checkpoint.name.partition("-")[2]), title, base, adapter)
        if suspicious(card):
            raise SelfplayError(secret_error("the model card"))
        (folder / "README.md").write_text(card, encoding="utf-8")
    return base


def _checkpoint(run: RunFolder, step: int | None) -> Path:
    """The folder of the checkpoint after a step; None for the last one."""
    from selfplay.errors import SelfplayError
    from selfplay.runs.players import STEP, last_checkpoint

    last = last_checkpoint(run)
    wanted = last if step is None else run.checkpoints / f"step-{step:06d}"
    if not wanted.is_dir():
        steps = sorted(int(found[1]) for path in run.checkpoints.iterdir() if (found := STEP.fullmatch(path.name)))
        raise SelfplayError(f"--step is {step}, but {run.path} kept the steps {', '.join(map(str, steps))}; choose one")
    return wanted


def _base(run: RunFolder, checkpoint: Path, base_id: str | None, licence: str | None) -> Base:
    """The model that the run started from, by its published name where there is one."""
    from omegaconf import OmegaConf

    from selfplay.errors import SelfplayError
    from selfplay.model_card import Base
    from selfplay.models.base_model import CONFIG
    from selfplay.models.load import ASSET, SMOLLM2
    from selfplay.models.smollm2 import HUB, NAME

    path = str(OmegaConf.select(run.config, "player.path") or "")
    adapter = (checkpoint / CONFIG).is_file()
    if adapter:  # names the base model even where the run went on with another adapter
        path = str(json.loads((checkpoint / CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path") or path)
    parts = Path(path).parts
    if path.startswith(ASSET) or parts[-3:-1] == ("selfplay", "assets"):
        name = ASSET + path.removeprefix(ASSET).rpartition("/")[2]
        return Base(name, None, licence or "apache-2.0", "The base model is embedded in selfplay.")
    if path == SMOLLM2 or parts[-2:] == ("selfplay", NAME):
        remark = "It was trained over weights that selfplay restored from a 4-bit file of this model."
        return Base(base_id or HUB, base_id or HUB, licence or "apache-2.0", remark)
    hub = base_id or (path if HUB_ID.fullmatch(path) and not Path(path).exists() else None)
    if adapter and hub is None:
        raise SelfplayError(
            f"the base model of the adapter {checkpoint} is a local folder, so nobody else could load it; name the hub "
            "id of the base model with --base"
        )
    return Base(hub, hub, licence or (None if hub is None else _licence(hub)))


def _licence(hub: str) -> str | None:
    """The licence in the metadata of a model on the Hub; None if it cannot be read."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    try:
        data = HfApi().model_info(hub, timeout=10).card_data
    except (OSError, HTTPError):
        return None
    found = None if data is None else data.get("license")
    return found if isinstance(found, str) else None


def _copy_without_paths(file: Path, target: Path) -> None:
    """Copy a file; if it is JSON, without entries that are a path of this machine."""
    found: Any = json.loads(file.read_text(encoding="utf-8")) if file.suffix == ".json" else {}
    kept = {key: value for key, value in found.items() if not (isinstance(value, str) and _is_path(value))}
    if kept == found:
        shutil.copyfile(file, target)
    else:
        target.write_text(json.dumps(kept, indent=2, ensure_ascii=False), encoding="utf-8")


def _is_path(value: str) -> bool:
    return value.startswith(("/", "~/")) and value.count("/") > 1 and "\n" not in value


def _check_upload(repo: str | None) -> None:
    """Raise SelfplayError if nothing can be uploaded, for a reason that needs no request."""
    from huggingface_hub import get_token, is_offline_mode

    from selfplay.errors import SelfplayError

    if repo is None:
        raise SelfplayError(f"--to is missing; give the repository, such as --to me/my-model, {DRY}")
    if is_offline_mode():
        raise SelfplayError(f"HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it, {DRY}")
    if get_token() is None:
        raise SelfplayError(f"there is no token of the Hugging Face Hub; set HF_TOKEN or call `hf auth login`, {DRY}")


def _uploaded(folder: Path, repo: str, private: bool, name: str) -> str:
    """Upload the folder, replacing the weights of an earlier upload; return the repository's address."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    from selfplay.errors import SelfplayError

    api = HfApi()
    try:
        address = str(api.create_repo(repo, private=private or None, exist_ok=True))
        if private and not api.model_info(repo).private:
            raise SelfplayError(f"{repo} exists and is public, so --private has no effect; choose another --to")
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            commit_message=f"selfplay push: {name}",
            delete_patterns=REPLACED,
        )
    except HfHubHTTPError as error:
        reason = (error.server_message or str(error)).strip().splitlines()[0]
        raise SelfplayError(
            f"the Hub refused the upload to {repo} ({reason}); check the name, and that the token may write there"
        ) from error
    except (OSError, HTTPError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SelfplayError(f"nothing could be uploaded to {repo} ({reason}); check the network, {DRY}") from error
    return address


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; on a user error, print one line on stderr and exit with 1."""
    args = parser().parse_args(arguments)
    run_command(lambda: push(args))


if __name__ == "__main__":
    main()
