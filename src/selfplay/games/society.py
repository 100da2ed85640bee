"""A society of agents that answer, read one another's answers and vote: multiagent finetuning (2501.05707)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

from selfplay.core import Ask, Episode, Game, Message, Play, at_least, user
from selfplay.options import Name, NotNegative, Range
from selfplay.tasks.task import Task
from selfplay.tasks.voting import majority


class Society(Game):
    """N agents answer a question of Nature's, revise their answers in further rounds, and are paid by their majority.

    In round 1 "generator_<n>" answers alone. In each further round "critic_<n>" sees the n-th agent's last answer and
    those of the others, or a summary of them, and answers again; agents speak in order, so the later ones see answers
    of the same round. The result is the majority of the last round. A generator earns 1 if its answer is the result. A
    critic whose last answer is the result earns `changed` in each of its turns if the agent's first answer was another
    one, else `kept`; all others earn 0. No truth is used.

    Args:
        agents: N.
        rounds: number of rounds; 1 without critics.
        kept, changed: payoffs of critics, see above.
        summary: whether "summariser" summarises the others' answers for each critic; else they are listed.
        task: says which part of a reply is the answer; None compares whole replies.
        options: the possible answers, if the agents choose among some.
        summarise: the summariser's prompt, with {question} and {answers}.
        others: the user message that the others' answers or their summary reply to.
    """

    def __init__(
        self,
        agents: Annotated[int, Range(2, 100)] = 3,
        rounds: Annotated[int, Range(1, 100)] = 1,
        kept: NotNegative = 0.5,
        changed: NotNegative = 1.0,
        summary: bool = False,
        task: Task | None = None,
        options: Sequence[str] = (),
        summarise: Name = "{question}\n\n{answers}\n\nSummarise these answers and their reasoning.",
        others: Name = "What do the others answer?",
    ) -> None:
        at_least(2, **{"game.agents": agents})
        at_least(1, **{"game.rounds": rounds})
        self.agents, self.rounds, self.kept, self.changed = agents, rounds, kept, changed
        self.summary, self.task, self.options = summary and rounds > 1, task, tuple(options)
        self.summarise, self.others = summarise, others
        self.generators = tuple(f"generator_{n + 1}" for n in range(agents))
        self.critics = tuple(f"critic_{n + 1}" for n in range(agents)) if rounds > 1 else ()
        self.judged = (*self.generators, *self.critics)
        self.roles = ("chance", *self.judged, *(("summariser",) if self.summary else ()))

    def play(self) -> Play:
        [question] = yield [Ask("chance")]
        alone = [Ask(role, user(question.text), options=self.options, group=role) for role in self.generators]
        latest = [reply.text for reply in (yield alone)]
        for _ in range(self.rounds - 1):
            for n, role in enumerate(self.critics):
                seen = "\n".join(answer for i, answer in enumerate(latest) if i != n)
                if self.summary:
                    [summary] = yield [Ask("summariser", user(self._asked(question.text, seen)))]
                    seen = summary.text
                messages = self._view(question.text, latest[n], seen)
                [revised] = yield [Ask(role, messages, options=self.options, group=role)]
                latest[n] = revised.text
        return None

    def result(self, episode: Episode) -> str:
        """The majority of the last round's answers, see `selfplay.tasks.voting`."""
        last = self.critics or self.generators
        final = {turn.ask.role: self._answer(turn.reply.text) for turn in episode.turns if turn.ask.role in last}
        return majority([final[role] for role in last])

    def payoffs(self, episode: Episode) -> list[float]:
        result = self.result(episode)
        spoken: dict[str, list[str]] = {}
        for turn in episode.turns:
            spoken.setdefault(turn.ask.role, []).append(self._answer(turn.reply.text))
        paid = {"chance": 0.0, "summariser": 0.0}
        for n, role in enumerate(self.generators):
            paid[role] = float(self._right(spoken[role][0], result))
            if self.critics:
                reached = self._right(spoken[self.critics[n]][-1], result)
                paid[self.critics[n]] = (self.kept if paid[role] else self.changed) if reached else 0.0
        return [paid[turn.ask.role] for turn in episode.turns]

    def _asked(self, question: str, answers: str) -> str:
        """The summariser's prompt; placeholders inside the question or an answer are not expanded."""
        told = {"question": question, "answers": answers}
        return re.sub(r"\{(question|answers)\}", lambda match: told[match[1]], self.summarise)

    @staticmethod
    def _right(answer: str, result: str) -> bool:
        return answer == result != ""

    def _answer(self, reply: str) -> str:
        return reply if self.task is None else self.task.answer_in(reply)

    def _view(self, question: str, own: str, others: str) -> tuple[Message, ...]:
        """A critic's messages; the last one is the bare question, so that referees of answers can judge the reply."""
        said: tuple[Message, ...] = ({"role": "assistant", "content": own},)
        heard: tuple[Message, ...] = ({"role": "assistant", "content": others},)
        return (*user(question), *said, *user(self.others), *heard, *user(question))
