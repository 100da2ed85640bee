"""Preference data as a game: a teacher gives two replies to a question, of which people preferred one."""

from selfplay.core import Ask, Episode, Game, Play, user

CHOSEN, REJECTED = "chosen", "rejected"


class Preferences(Game):
    """Nature samples a question; the teacher gives the chosen reply, paid 1, and the rejected one, paid 0.

    The two are one group, so a rule that compares payoffs, such as DPO (2305.18290), learns the preference. A system
    message says which of the two is asked for; both are learnt behind the bare question.
    """

    roles = ("chance", "teacher")

    def play(self) -> Play:
        [question] = yield [Ask("chance")]
        bare = user(question.text)
        yield [
            Ask("teacher", ({"role": "system", "content": which}, *bare), group=0, learnt_prompt=bare)
            for which in (CHOSEN, REJECTED)
        ]
        return None

    def payoffs(self, episode: Episode) -> list[float]:
        return [0.0, 1.0, 0.0]
