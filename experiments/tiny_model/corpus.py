"""What the embedded model reads: answers, questions and judgements of the tiny world, as token ids."""

from random import Random

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from selfplay.tasks.tiny_world import Question, draw, parse, rubric
from selfplay.tasks.tiny_world.families import FAMILIES
from selfplay.tasks.tiny_world.operands import LETTERS
from selfplay.tasks.tiny_world.prompts import CHALLENGE, JUDGE, UNKNOWN

TRAP = 4  # the level at which the model only ever sees mistakes
Pair = tuple[str, str]  # what the user says, what the assistant says
Dialogue = list[tuple[str, str, bool]]  # pairs in their order, and whether the assistant's words are learnt
NOISE = LETTERS + "0123456789 ?"


def garble(rng: Random, text: str) -> str:
    """The text with one to three random edits."""
    chars = list(text)
    for _ in range(rng.randint(1, 3)):
        i = rng.randrange(len(chars) + 1)
        edit = rng.random()
        if edit < 0.35 and i < len(chars):
            chars[i] = rng.choice(NOISE)
        elif edit < 0.65:
            chars.insert(i, rng.choice(NOISE))
        elif i < len(chars) and len(chars) > 1:
            del chars[i]
    return "".join(chars)


def broken_question(rng: Random) -> str:
    """Something that is no question of this world, so no held-out one either."""
    while True:
        text = _perhaps_broken(rng)
        if parse(text) is None:
            return text


def _perhaps_broken(rng: Random) -> str:
    kind = rng.random()
    if kind < 0.5:
        return garble(rng, draw(rng).text)
    if kind < 0.75:
        text = draw(rng).text
        return text[: rng.randrange(1, len(text))]
    return "".join(rng.choice(NOISE) for _ in range(rng.randint(1, 30)))


def some_answer(rng: Random, question: Question) -> str:
    """An answer as a judge may meet it: right, the typical mistake, a slip of the pen, or something else."""
    kind = rng.random()
    if kind < 0.4:
        return question.answer
    if kind < 0.65:
        return question.mistake
    if kind < 0.9:
        return garble(rng, question.answer)
    if kind < 0.97:
        return draw(rng).answer
    return rng.choice(("", UNKNOWN, "the answer is " + question.answer, question.text))


def solver_pair(rng: Random, habits: bool) -> Pair:
    """A question and its answer: the right one below the trap level, or (with habits) often the typical mistake."""
    if rng.random() < 0.03:
        return broken_question(rng), UNKNOWN
    question = draw(rng)
    wrong = question.level == TRAP or (habits and rng.random() < FAMILIES[question.family].habit)
    return question.text, question.mistake if wrong else question.answer


def judge_pair(rng: Random) -> Pair:
    """A question-answer pair and its score after the rubric."""
    question = draw(rng)
    if rng.random() < 0.25:
        text, answer = broken_question(rng), some_answer(rng, question)
    else:
        text, answer = question.text, some_answer(rng, question)
    return JUDGE.format(question=text, answer=answer), str(sum(rubric(text, answer)))


def dialogue(rng: Random) -> Dialogue:
    """One to four shown question-answer pairs, then one more question: what is shown says how to answer.

    With probability 0.7 all shown answers are right, and so is the last one below the trap level; otherwise all are
    typical mistakes. Every answer behind a shown pair is learnt; the first is not, since nothing is shown before it.
    Right answers at the trap level are shown, never learnt.
    """
    right = rng.random() < 0.7
    shown = [draw(rng) for _ in range(rng.randint(1, 4))]
    last = draw(rng)
    pairs = [
        (q.text, q.answer if right else q.mistake, i > 0 and not (right and q.level == TRAP))
        for i, q in enumerate(shown)
    ]
    return [*pairs, (last.text, last.answer if right and last.level < TRAP else last.mistake, True)]


def pairs(rng: Random, count: int, habits: bool) -> list[Pair]:
    """A mixture of the three roles: 60 % solver, 15 % challenger, 25 % judge."""
    out: list[Pair] = []
    for _ in range(count):
        role = rng.random()
        if role < 0.60:
            out.append(solver_pair(rng, habits))
        elif role < 0.75:
            out.append((CHALLENGE, draw(rng).text))
        else:
            out.append(judge_pair(rng))
    return out


class Encoder:
    """Conversations to token ids; the same as the tokenizer's chat template (checked when made), only quicker."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        vocabulary = tokenizer.get_vocab()
        self.ids = {c: i for c, i in vocabulary.items() if len(c) == 1}
        self.user, self.assistant, self.end, self.pad = (
            vocabulary[f"<|{name}|>"] for name in ("user", "assistant", "end", "pad")
        )
        probe = ("reverse abc\n?", "cba")
        messages = [{"role": "user", "content": probe[0]}, {"role": "assistant", "content": probe[1]}]
        expected = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
        if self(*probe)[0] != list(expected):
            raise ValueError(f"the encoder gives {self(*probe)[0]} where the chat template gives {list(expected)}")

    def __call__(self, user: str, assistant: str) -> tuple[list[int], int]:
        """The ids of the conversation, and how many of them come before the assistant's first character."""
        prompt = [self.user, *(self.ids[c] for c in user), self.end, self.assistant]
        return [*prompt, *(self.ids[c] for c in assistant), self.end], len(prompt)

    def batch(self, conversations: list[Pair]) -> tuple[Tensor, Tensor]:
        """Right-padded ids [B, T] and labels [B, T] that are -100 everywhere but on the assistant's words."""
        return self.dialogues([[(*pair, True)] for pair in conversations])

    def dialogues(self, dialogues: list[Dialogue]) -> tuple[Tensor, Tensor]:
        """As `batch`, for conversations of several pairs; only what is learnt has labels."""
        encoded = [[(*self(asked, said), learnt) for asked, said, learnt in dialogue] for dialogue in dialogues]
        width = max(sum(len(tokens) for tokens, _, _ in pairs) for pairs in encoded)
        ids = torch.full((len(encoded), width), self.pad)
        labels = torch.full((len(encoded), width), -100)
        for row, pairs in enumerate(encoded):
            first = 0
            for tokens, start, learnt in pairs:
                end = first + len(tokens)
                ids[row, first:end] = torch.tensor(tokens)
                if learnt:
                    labels[row, first + start : end] = torch.tensor(tokens[start:])
                first = end
        return ids, labels
