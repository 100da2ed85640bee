"""The questions that a run asked, as training questions of another task."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from random import Random

from selfplay.core import SelfplayError, at_least
from selfplay.files import lines, read_json
from selfplay.options import Count, Name, Number, Steps
from selfplay.tasks.task import Item, Task
from selfplay.thoughts import question

EPISODES, SUMMARY = "episodes.jsonl", "summary.json"


class Transcripts(Task):
    """Training questions from a finished run's transcripts; another task answers and judges, and holds its own out.

    The different texts of a role are drawn alike, as far as the judge recognizes them and does not hold them out.

    Args:
        path: the run's folder.
        judge: the task that knows the answers.
        role: the role that asked: "challenger", or "chance" where Nature did.
        payoff_from: use only texts of turns that were paid at least this; None: no limit.
        payoff_to: use only texts of turns that were paid at most this; None: no limit.
        first_step: use only texts from this step on.
        fewest: minimum number of questions.
        most: maximum number of questions, of which the first are kept; None: no limit.

    Raises:
        SelfplayError: the folder is not that of a finished run, no turn is of that role, or too few questions are left.
    """

    def __init__(
        self,
        path: Name,
        judge: Task,
        role: Name = "challenger",
        payoff_from: Number | None = None,
        payoff_to: Number | None = None,
        first_step: Steps = 0,
        fewest: Count = 2,
        most: Count | None = None,
    ) -> None:
        at_least(1, **{"task.fewest": fewest})
        self.judge, self.judges = judge, judge.judges
        low = -float("inf") if payoff_from is None else payoff_from
        high = float("inf") if payoff_to is None else payoff_to
        said = _turns(path, role)
        texts = dict.fromkeys(text for step, payoff, text in said if step >= first_step and low <= payoff <= high)
        known = [text for text in texts if judge.item(text) is not None]
        training = [text for text in known if not judge.holds_out(text)]
        self.questions = training[:most]
        if len(self.questions) < fewest:
            raise SelfplayError(
                f"{len(self.questions)} questions are left of {len(said)} turns of the role '{role}' in {path} "
                f"({len(texts)} different texts within the limits of payoff and step, {len(known)} of them questions "
                f"of {type(judge).__name__}, {len(known) - len(training)} of these held out), but task.fewest is "
                f"{fewest}; widen the limits, or use a longer run"
            )

    def draw(self, rng: Random) -> str:
        return rng.choice(self.questions)

    def held_out(self) -> Sequence[Item]:
        return self.judge.held_out()

    def item(self, question: str) -> Item | None:
        return self.judge.item(question)

    def correct(self, item: Item, reply: str) -> float:
        return self.judge.correct(item, reply)

    def answer_in(self, reply: str) -> str:
        return self.judge.answer_in(reply)

    def holds_out(self, question: str) -> bool:
        return self.judge.holds_out(question)


def _turns(path: str, role: str) -> tuple[tuple[int, float, str], ...]:
    """(step, payoff, question) of each turn of the role.

    Raises:
        SelfplayError: the folder is not that of a finished run, or has no such turn.
    """
    folder = Path(path)
    file = folder / EPISODES
    if not file.is_file() or not (folder / SUMMARY).is_file():
        raise SelfplayError(
            f"task.path is '{path}', which is not the folder of a run (with {EPISODES} and {SUMMARY}); give one, such "
            "as outputs/<day>/<time>"
        )
    status = read_json(folder / SUMMARY, "restore what the run wrote").get("status")
    if status != "finished":
        raise SelfplayError(
            f"the run in {path} is not finished (its status is '{status}'), so its questions may change; finish it "
            f"with resume={path}, or name another"
        )
    stamp = file.stat()
    found = _read(file, role, stamp.st_mtime_ns, stamp.st_size)
    if not found:
        roles = sorted({str(record.get("role")) for _, record in lines(file)})
        raise SelfplayError(
            f"the run in {path} has no turn of the role '{role}' (its roles: {', '.join(roles) or 'none'}); change "
            "task.role"
        )
    return found


@lru_cache(maxsize=8)
def _read(file: Path, role: str, changed: int, size: int) -> tuple[tuple[int, float, str], ...]:
    """Read a transcript; cached as long as its modification time and size stay the same."""
    found = []
    for count, (_, record) in enumerate(lines(file), 1):
        if record.get("role") == role:
            payoff, reply = record.get("payoff"), record.get("reply")
            if not isinstance(payoff, int | float) or not isinstance(reply, str):
                raise SelfplayError(f"line {count} of {file} has no reply with a payoff; restore what the run wrote")
            found.append((record["step"], float(payoff), question(reply)))
    return tuple(found)
