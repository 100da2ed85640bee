"""What is compared: a question, and the sides with the arguments of worker.py; ours is the first."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """`pairs` is how many steps of each side count; 0: as many as the bench is told."""

    name: str
    question: str
    sides: dict[str, list[str]]
    pairs: int = 0


Size = int | str


def sizes(queries: Size, answers: Size, prompt: Size, reply: Size = 48) -> list[str]:
    given = {"queries": queries, "answers": answers, "prompt": prompt, "reply": reply}
    return [part for name, value in given.items() for part in (f"--{name}", str(value))]


SMOLLM2, TINY = ["--model", "cache:smollm2"], ["--model", "asset:tiny"]
SHORT, LONG, MANY = sizes(4, 4, 64), sizes(1, 16, 512), sizes(32, 8, 64)
HALF = ["--dtype", "bfloat16"]


def step(name: str, question: str, how: list[str], ours: list[str], theirs: list[str], pairs: int = 0) -> Case:
    return Case(name, question, {"ours": ["ours", *how, *ours], "TRL": ["trl", *how, *theirs]}, pairs)


def sampling(name: str, question: str, how: list[str]) -> Case:
    return Case(name, question, {"ours": ["ours", *how, "--sample"], "generate": ["generate", *how]})


CASES = [
    step("float32", "SmolLM2-135M, 4 x 4 x 48, both in float32", [*SMOLLM2, *SHORT], [], []),
    Case(
        "bfloat16",
        "the same in bfloat16 over float32 weights, against TRL likewise and as it comes",
        {
            "ours": ["ours", *SMOLLM2, *SHORT, *HALF],
            "TRL": ["trl", *SMOLLM2, *SHORT, *HALF],
            "TRL as it comes": ["trl", *SMOLLM2, *SHORT, "--trl-defaults"],
        },
    ),
    step("tiny", "the embedded model, 32 x 8 x 48, float32", [*TINY, *MANY], [], []),
    step(
        "prompt 512",
        "SmolLM2-135M, a prompt of 512 tokens, 16 answers, float32; TRL 4 replies a pass: 16 are 18 GB and more",
        [*SMOLLM2, *LONG],
        [],
        ["--micro-batch", "4"],
    ),
    sampling("sampling", "SmolLM2-135M, 4 x 4 x 48, sampling alone, float32", [*SMOLLM2, *SHORT]),
    sampling("sampling, bfloat16", "the same in bfloat16", [*SMOLLM2, *SHORT, *HALF]),
    sampling("sampling, tiny", "the embedded model, 32 x 8 x 48", [*TINY, *MANY]),
    step(
        "LoRA",
        "memory: ours under LoRA, a query a pass, against TRL's full fine-tuning, float32",
        [*SMOLLM2, *SHORT],
        ["--lora", "--micro-batch", "4"],
        [],
        pairs=2,
    ),
]
QUICK = [
    step("tiny", "does it run", [*TINY, *sizes(2, 2, 8, 4)], [], []),
    sampling("sampling, tiny", "does it run", [*TINY, *sizes(2, 2, 8, 4)]),
]
GROWTH: dict[str, tuple[list[int], list[str]]] = {  # {} is the value
    "queries of 8 answers": ([2, 8, 32, 128], [*TINY, *sizes("{}", 8, 64)]),
    "prompt length": ([32, 128, 512], [*SMOLLM2, *sizes(1, 8, "{}", 32)]),
    "reply length": ([16, 64, 256], [*SMOLLM2, *sizes(1, 8, 64, "{}")]),
    "vocabulary": ([1024, 8192, 32768, 131072], ["--model", "{}", *sizes(4, 4, 64)]),
}
