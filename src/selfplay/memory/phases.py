"""The memory of one process in each phase of a step, as a list of parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from selfplay.devices import Sizes, sizes_on
from selfplay.memory import parts
from selfplay.memory.model import Model
from selfplay.memory.optimizer_state import OptimizerState
from selfplay.memory.parts import Texts

PHASES = ("playing", "scoring", "updating")


@dataclass(frozen=True)
class Scorer:
    """A model besides the learner and its snapshots, such as a reward model; every process holds it whole.

    Attributes:
        name: what the table calls it.
        model: its sizes.
        texts: the texts of a forward pass; None if it is not read while scoring.
    """

    name: str
    model: Model
    texts: Texts | None


@dataclass(frozen=True)
class Setup:
    """Everything that determines the memory of a run's process.

    Attributes:
        learner: the model that is trained.
        optimizer: what the optimizer keeps.
        batch_size: replies generated in parallel.
        micro_batch: turns per backward pass.
        prompt, reply: tokens of a prompt, and at most of a reply.
        group: replies to the same prompt.
        checkpointing: whether gradient checkpointing is enabled.
        engine: who generates: "embedded", "transformers" or "server".
        parallel: how processes share the run.
        processes: how many there are.
        on_cpu: whether the models are on a CPU.
        scorers: further models.
        snapshots: frozen copies of the learner besides the reference, at the end of the run.
        frozen_play: whether a frozen snapshot generates while a run plays.
        mixture: whether a mixture of the learner and the reference generates, by transformers' modules.
        frozen_scoring: whether one generates while it scores or evaluates.
        aside: whether a second optimizer state is kept, for a learner that an exploiter sets aside.
        judges: whether the reference judges texts by their next token.
    """

    learner: Model
    optimizer: OptimizerState
    batch_size: int
    micro_batch: int
    prompt: int
    reply: int
    group: int
    checkpointing: bool
    engine: str
    parallel: Literal["none", "ddp", "fsdp"]
    processes: int
    on_cpu: bool
    scorers: tuple[Scorer, ...] = ()
    snapshots: int = 0
    frozen_play: bool = False
    mixture: bool = False
    frozen_scoring: bool = False
    aside: bool = False
    judges: bool = False

    @property
    def shards(self) -> int:
        """Among how many processes the weights are split."""
        return self.processes if self.parallel == "fsdp" else 1

    @property
    def work(self) -> Sizes:
        """How much the device computes at once."""
        return sizes_on(self.on_cpu)

    @property
    def played(self) -> Texts:
        return Texts(self.batch_size, self.prompt, self.reply, self.group, self.work)

    @property
    def trained(self) -> Texts:
        return Texts(self.micro_batch, self.prompt, self.reply, self.group, self.work)


Parts = Mapping[str, int]  # name of a part -> bytes


def phases(setup: Setup) -> dict[str, Parts]:
    """The parts of each phase; all parts of a phase are in memory at the same time."""
    return {"playing": playing(setup), "scoring": scoring(setup), "updating": updating(setup)}


def total(found: Parts) -> int:
    return sum(found.values())


def peak(setup: Setup) -> int:
    """Bytes of the phase that needs most."""
    return max(map(total, phases(setup).values()))


def kept(setup: Setup) -> dict[str, int]:
    """What is in memory in every phase."""
    learner, shards = setup.learner, setup.shards
    copy = parts.adapter(learner) if learner.lora else parts.weights(learner, shards)
    state = parts.optimizer_state(learner, setup.optimizer, shards)
    found = {
        "learner: weights": parts.weights(learner, shards),
        "learner: optimizer state": state * (2 if setup.aside else 1),
        "reference": copy,
        "snapshots": setup.snapshots * copy,
    }
    return found | {scorer.name: parts.weights(scorer.model) for scorer in setup.scorers}


def whole(setup: Setup) -> dict[str, int]:
    """The weights that FSDP gathers while a run plays and scores: those of the learner and of every whole copy."""
    if setup.shards == 1:
        return {}
    copies = 1 if setup.learner.lora else 2 + setup.snapshots
    return {"gathered weights": copies * parts.gathered(setup.learner)}


def playing(setup: Setup) -> Parts:
    """While replies are generated. A server's own memory is not part of the run's."""
    found = kept(setup) | whole(setup) | _decoders(setup, setup.frozen_play)
    return found | _generation(setup) if setup.engine != "server" else found


def scoring(setup: Setup) -> Parts:
    """While referees score or an evaluation runs, one at a time; the learner's decoder remains."""
    found = kept(setup) | whole(setup) | _decoders(setup, setup.frozen_scoring)
    if setup.frozen_scoring and setup.engine != "server":
        found |= _generation(setup)
    read = [parts.forward(one.model, one.texts.tokens) for one in setup.scorers if one.texts is not None]
    if setup.judges:
        judged = Texts(setup.batch_size, setup.prompt + setup.reply, 1, 1, setup.work)
        read.append(parts.forward(setup.learner, judged.tokens) + parts.logits(setup.learner, judged.rows))
    return found | {"temporary": max(found.get("temporary", 0), *read, 0)}


def updating(setup: Setup) -> Parts:
    """At the beginning of a backward pass after the first of an update: gradients exist, and all activations."""
    learner, texts, shards = setup.learner, setup.trained, setup.shards
    found = kept(setup) | {"learner: gradients": parts.gradients(learner, shards)}
    passing = {
        "activations": parts.activations(learner, texts, setup.checkpointing),
        "mask of packed texts": parts.mask(texts, learner.compute),
        "casts to compute_dtype": parts.casts(learner, setup.checkpointing),
        "head, or backward pass of a layer": max(  # one after the other
            parts.head(learner, texts), parts.backward(learner, texts, setup.checkpointing)
        ),
    }
    if shards > 1:
        passing |= {"gathered weights": parts.units(learner), "unreduced gradients": parts.unreduced(learner)}
    elif setup.parallel == "ddp" and parts.buckets(learner) > total(passing):
        passing = {"sum of gradients": parts.buckets(learner)}  # after the last backward pass
    return found | passing


def _generation(setup: Setup) -> dict[str, int]:
    learner, texts = setup.learner, setup.played
    return {
        "keys and values": parts.key_values(learner, texts, setup.on_cpu, setup.mixture),
        "logits": parts.logits(learner, texts.rows),
        "temporary": parts.prefill(learner, texts),
    }


def _decoders(setup: Setup, frozen: bool) -> dict[str, int]:
    """The learner's decoder, and that of a snapshot while it generates."""
    copies = setup.learner.decoder if setup.engine == "embedded" else None
    return {} if copies is None else {"decoder": copies * (2 if frozen else 1)}
