"""Say before a run whether it fits into memory; nothing is loaded.

    selfplay memory player=hf player.path=<folder or hub id>           the options of a run
    selfplay memory experiment=lsp_paper device.memory=80 parallel=fsdp processes=8
    selfplay memory player=hf --parameters 8e9 --layers 32 --hidden 4096 device.memory=80

Prints the memory of each process in each phase of a step, and what would make a run fit that does not.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from selfplay.commandline import run_command

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from selfplay.memory.configured import Given
    from selfplay.memory.model import Model
    from selfplay.memory.phases import Setup
    from selfplay.memory.room import Room

OWN = {"processes": "--processes", "device.memory": "--memory"}  # written like options of a run
SIZES = ("layers", "hidden", "intermediate", "heads", "kv_heads", "vocabulary")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="selfplay memory",
        description="The memory of a run's processes in GiB, calculated from its config, and whether it fits.",
        epilog="Also: processes=N and device.memory=GIB, for --processes and --memory. Without --memory, the memory of "
        "the run's device on this machine counts.",
    )
    add = found.add_argument
    add("options", nargs="*", metavar="OPTION", help="the options of the run, as for selfplay run")
    add("--processes", type=int, default=1, metavar="N", help="processes that share the run (%(default)s)")
    add("--memory", type=float, metavar="GIB", help="memory of the device of each process")
    add("--prompt", type=int, metavar="P", help="tokens of a prompt (default: player.max_tokens + 128)")
    shape = found.add_argument_group("a model of the Llama family by its sizes, in place of the one at player.path")
    add = shape.add_argument
    add("--parameters", type=float, metavar="N", help="number of parameters, such as 8e9; determines --intermediate")
    for name in SIZES:
        add(f"--{name.replace('_', '-')}", type=int, metavar="N")
    add("--tied", action="store_true", help="the head is the embedding")
    return found


def memory(args: argparse.Namespace) -> None:
    """Calculate, and print the table, the verdict and the remedies.

    Raises:
        SelfplayError: an option is wrong, or a model's config cannot be read.
    """
    from omegaconf import OmegaConf

    from selfplay.console import say
    from selfplay.core import SelfplayError, at_least
    from selfplay.memory.configured import setup_of
    from selfplay.memory.room import Room
    from selfplay.memory.sizes import choose

    at_least(1, processes=args.processes, **({} if args.prompt is None else {"prompt": args.prompt}))
    if any(option.startswith("resume=") for option in args.options):
        raise SelfplayError("memory reads the options of a run, not a run's folder; leave out resume")
    given = _given(args)
    cfg, sizes = _composed(args.options, given)
    setup = setup_of(cfg, given)
    if setup is None:
        say(f"player={cfg.player._target_} is no language model: it needs no memory worth counting")
        return

    def room() -> Room:
        return Room.on(str(cfg.player.device)) if args.memory is None else Room.given(args.memory)

    if sizes:
        setup = choose(cfg, sizes, given, room())
        say(f"sizes that fit: {' '.join(f'{key}={OmegaConf.select(cfg, key)}' for key in sizes)}")
    show(setup)
    judge(setup, cfg, given, room())


def _composed(options: Sequence[str], given: Given) -> tuple[DictConfig, list[str]]:
    """The config of the run, whose options are checked as before a run, and the sizes that it leaves to the memory.

    Raises:
        SelfplayError: an option is wrong.
    """
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    from selfplay.composing import compose
    from selfplay.config import check_config
    from selfplay.core import SelfplayError
    from selfplay.memory.sizes import take_auto

    try:
        cfg = compose(*options)
    except HydraException as error:
        raise SelfplayError(" ".join(str(error).split())) from error
    if given.config is not None and OmegaConf.is_missing(cfg.player, "path"):
        cfg.player.path = "by hand"
    sizes = take_auto(cfg)
    check_config(cfg)
    if cfg.learners:
        raise SelfplayError(
            f"`selfplay memory` calculates one learner, but there are further ones ({', '.join(cfg.learners)}); leave "
            "learners out, and add the learner's parts once more for each"
        )
    return cfg, sizes


def _given(args: argparse.Namespace) -> Given:
    from selfplay.core import SelfplayError
    from selfplay.memory.configured import Given
    from selfplay.memory.model import llama_of

    sizes = {name: getattr(args, name) for name in SIZES if getattr(args, name) is not None}
    if not sizes and args.parameters is None:
        return Given(args.processes, args.prompt)
    if "layers" not in sizes or "hidden" not in sizes:
        raise SelfplayError("a model by its sizes needs --layers and --hidden, and --parameters or --intermediate")
    return Given(args.processes, args.prompt, llama_of(args.parameters, tied=args.tied, **sizes))


def show(setup: Setup) -> None:
    """Print the table: one row per part, one column per phase."""
    from rich.table import Table

    from selfplay.console import say, show_table, table_box
    from selfplay.memory.phases import PHASES, phases, total
    from selfplay.memory.room import GIB

    found = phases(setup)
    table = Table(title=f"GiB of each process ({setup.parallel}, {setup.processes})", box=table_box())
    table.add_column("part")
    for phase in PHASES:
        table.add_column(phase, justify="right")
    for name in dict.fromkeys(name for phase in PHASES for name in found[phase]):
        sizes = [found[phase].get(name, 0) for phase in PHASES]
        if any(sizes):
            table.add_row(name, *(f"{size / GIB:.3f}" if size else "" for size in sizes))
    table.add_section()
    table.add_row("sum", *(f"{total(found[phase]) / GIB:.3f}" for phase in PHASES))
    show_table(table)
    learner = setup.learner
    trained = sum(weight.elements() for weight in learner.trained)
    say(
        f"learner: {learner.parameters / 1e6:,.1f} M parameters, {trained / 1e6:,.1f} M trained; prompts of "
        f"{setup.prompt} tokens (--prompt), replies of {setup.reply}, {setup.group} to a prompt"
    )
    phase = max(PHASES, key=lambda name: total(found[name]))
    part = max(found[phase], key=lambda name: found[phase][name])
    say(f"peak: {total(found[phase]) / GIB:.2f} GiB while {phase}; its largest part is {part}")


def judge(setup: Setup, cfg: DictConfig, given: Given, room: Room) -> None:
    """Print whether the run fits, and otherwise what would make it fit."""
    from selfplay.console import say
    from selfplay.memory.configured import learner_of
    from selfplay.memory.remedies import LORA, remedies
    from selfplay.memory.room import GIB, HEADROOM, LIBRARIES

    need = f"{room.needed(setup) / GIB:.1f} GiB, with {LIBRARIES} GiB per process for libraries"
    if room.fits(setup):
        say(f"fits: it needs {need}, and leaves {HEADROOM:.0%} of {room.told}")
        return
    say(f"does not fit: it needs {need}, and {HEADROOM:.0%} of {room.told} must remain")

    @cache
    def adapted() -> Model:
        found = learner_of(cfg, given, LORA)
        assert found is not None
        return found

    found = remedies(setup, None if setup.learner.lora else adapted, room.fits)
    for remedy in found:
        say(f"would fit with {remedy.text}: {room.needed(remedy.setup) / GIB:.1f} GiB")
    if not found:
        say("no change of micro_batch, batch_size, checkpointing, LoRA, fsdp or engine suffices; take a smaller model")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; on a user error, print one line on stderr and exit with 1."""
    import sys

    typed = sys.argv[1:] if arguments is None else list(arguments)
    pairs = [argument.partition("=") for argument in typed]
    typed = [f"{OWN[key]}={value}" if key in OWN else key + equals + value for key, equals, value in pairs]
    args = parser().parse_intermixed_args(typed)
    run_command(lambda: memory(args))


if __name__ == "__main__":
    main()
