"""Play many episodes in parallel with batched replies, then score, pay and collate them."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import SupportsFloat

import torch

from selfplay.core import Ask, Batch, Episode, Game, Play, Player, Policy, Referee, Reply, SelfplayError, Turn
from selfplay.metrics import of_referees
from selfplay.parallel import current, merged
from selfplay.records import following

LARGEST = torch.finfo(torch.float32).max
NUMBERS = (float, int, SupportsFloat)  # in this order, since a check against a protocol takes 5 microseconds
Weighted = dict[str, tuple[float, int]]  # metric -> value, number of turns
NATURE = (
    "let Nature play it and define what it samples, for example with "
    "'+players.nature={_target_: selfplay.players.nature.Nature, draw: {_target_: selfplay.players.nature.numbers, "
    '_partial_: true, form: "{} + {}", below: 10}}\' +seats.chance=nature'
)


def play(
    game: Game,
    players: Mapping[str, Player],
    episodes: Iterable[int],
    key: str,
    seats: Callable[[int], Mapping[str, str]] | None = None,
) -> list[Episode]:
    """Play episodes side by side, with one `act` call per player for each wave of pending asks.

    Each process of the run plays its share, and all of them return all episodes (`selfplay.parallel`).

    Args:
        game: the rules.
        players: name -> player.
        episodes: the indices of the episodes.
        key: random seed; an episode is a function of `key`, its index and its players.
        seats: index -> {role: name of its player}; by default each role is played by the player of the same name.

    Returns:
        The episodes, in the order of their indices, without scores and payoffs.

    Raises:
        SelfplayError: a role has no player, the game asks an unknown role, or a player returns too few or many replies.
    """
    processes, indices = current(), list(episodes)
    with processes.whole():
        if any(player.stateful for player in players.values()):
            return processes.together(lambda: play_here(game, players, indices, key, seats))
        return merged(processes.collect(lambda: play_here(game, players, processes.share(indices), key, seats)))


def play_here(
    game: Game,
    players: Mapping[str, Player],
    indices: Sequence[int],
    key: str,
    seats: Callable[[int], Mapping[str, str]] | None,
) -> list[Episode]:
    """Play the given episodes in this process only."""
    seated = {index: dict(seats(index)) if seats else {role: role for role in players} for index in indices}
    for names in seated.values():
        check_seats(game, {role: name for role, name in names.items() if name in players})
    tables = {index: Episode(index, [], seats=seated[index]) for index in indices}
    plays = {index: game.play() for index in indices}
    pending: dict[int, list[Ask]] = {}
    for index in indices:
        _advance(plays[index], None, tables[index], pending, key)
    while pending:
        replies = _answer(pending, seated, players)
        asked, pending = pending, {}
        for index, asks in asked.items():
            names = seated[index]
            tables[index].turns += [Turn(a, r, player=names[a.role]) for a, r in zip(asks, replies[index], strict=True)]
            _advance(plays[index], replies[index], tables[index], pending, key)
    return list(tables.values())


def check_seats(game: Game, seats: Mapping[str, object]) -> None:
    """Raise SelfplayError unless every role of the game has a player."""
    for role in game.roles:
        if role not in seats:
            raise SelfplayError(
                f"the role '{role}' of {type(game).__name__} has no player (seats: {', '.join(seats) or 'none'}); "
                + (NATURE if role == "chance" else f"assign one, for example +seats.{role}=learner")
            )


def _advance(
    play: Play, replies: list[Reply] | None, episode: Episode, pending: dict[int, list[Ask]], key: str
) -> None:
    """Advance one episode to its next asks, or to its end."""
    try:
        asks = next(play) if replies is None else play.send(replies)
    except StopIteration as end:
        episode.returns = end.value
        return
    first = len(episode.turns)
    pending[episode.index] = [replace(a, key=f"{key}/{episode.index}/{first + i}") for i, a in enumerate(asks)]


def _answer(
    pending: Mapping[int, list[Ask]], seated: Mapping[int, Mapping[str, str]], players: Mapping[str, Player]
) -> dict[int, list[Reply]]:
    """Get all replies with one call per player, across roles and episodes."""
    orders: dict[int, tuple[Player, list[tuple[int, int, Ask]]]] = {}
    for index, asks in pending.items():
        for slot, ask in enumerate(asks):
            if ask.role not in seated[index]:
                raise SelfplayError(f"the game asked the role '{ask.role}', which it does not list in its roles")
            player = players[seated[index][ask.role]]
            orders.setdefault(id(player), (player, []))[1].append((index, slot, ask))
    answers: dict[int, dict[int, Reply]] = {index: {} for index in pending}
    for player, order in orders.values():
        replies = player.act([ask for _, _, ask in order])
        if len(replies) != len(order):
            raise SelfplayError(
                f"{type(player).__name__}.act gave {len(replies)} replies to {len(order)} asks; it must give one each"
            )
        for (index, slot, _), reply in zip(order, replies, strict=True):
            answers[index][slot] = reply
    return {index: [slots[i] for i in range(len(slots))] for index, slots in answers.items()}


def score_and_pay(
    game: Game, episodes: Sequence[Episode], referees: Mapping[str, Referee], players: Mapping[str, Policy]
) -> dict[str, float]:
    """Score all turns with the referees, then set their payoffs, in place; return the referees' metrics.

    Each process of the run scores its share of the episodes; a metric is the processes' mean, weighted by turns.

    Args:
        game: determines the payoffs.
        episodes: played episodes.
        referees: score name -> referee.
        players: "learner" and "reference", for the referees.

    Raises:
        SelfplayError: a referee or the game returns a wrong number of values, or one that is not finite.
    """
    processes = current()
    mine = processes.share(episodes)

    def scored() -> tuple[list[list[tuple[dict[str, float], float]]], Weighted]:
        metrics = _score_and_pay(game, mine, referees, players)
        return [[(turn.scores, turn.payoff) for turn in episode.turns] for episode in mine], metrics

    with processes.whole():
        found = processes.collect(scored)
    for episode, paid in zip(episodes, merged([turns for turns, _ in found]), strict=True):
        for turn, (scores, payoff) in zip(episode.turns, paid, strict=True):
            turn.scores, turn.payoff = scores, payoff
    weighted: dict[str, list[tuple[float, int]]] = {}
    for _, metrics in found:
        for name, pair in metrics.items():
            weighted.setdefault(name, []).append(pair)
    return {
        name: pairs[0][0] if len(pairs) == 1 else fmean([value for value, _ in pairs], [count for _, count in pairs])
        for name, pairs in weighted.items()
    }


def _score_and_pay(
    game: Game, episodes: Sequence[Episode], referees: Mapping[str, Referee], players: Mapping[str, Policy]
) -> Weighted:
    """Score and pay the given episodes in this process only."""
    turns = [turn for episode in episodes for turn in episode.turns]
    metrics: Weighted = {}
    for name, referee in referees.items():
        roles = referee.roles or game.judged
        judged = [turn for turn in turns if turn.ask.role in roles]
        if not judged:
            continue
        scores = referee.score(judged, players)
        if wrong := wrong_scores(scores, len(judged)):
            raise SelfplayError(
                f"the referee '{name}' ({type(referee).__name__}) gave {wrong} for {len(judged)} turns; "
                f"it must give one finite score per turn"
            )
        for turn, value in zip(judged, scores.tolist(), strict=True):
            turn.scores[name] = value
        metrics |= {key: (value, len(judged)) for key, value in of_referees({name: referee}).items()}
    for episode in episodes:
        payoffs = game.payoffs(episode)
        if not isinstance(payoffs, Collection) or len(payoffs) != len(episode.turns) or not all(map(_payable, payoffs)):
            raise SelfplayError(
                f"{type(game).__name__}.payoffs gave {payoffs} for the {len(episode.turns)} turns of episode "
                f"{episode.index}; it must give one finite payoff per turn"
            )
        for turn, payoff in zip(episode.turns, payoffs, strict=True):
            turn.payoff = float(payoff)
    return metrics


def wrong_scores(scores: object, count: int) -> str | None:
    """Describe what is wrong with a referee's scores; None if they are a tensor of `count` finite numbers."""
    if not isinstance(scores, torch.Tensor):
        return f"a {type(scores).__name__} instead of a tensor"
    if tuple(scores.shape) != (count,):
        return f"scores of shape {tuple(scores.shape)}"
    bad = scores[~torch.isfinite(scores)]
    return f"{bad.numel()} scores like {bad[0].item()}" if bad.numel() else None


def _payable(payoff: object) -> bool:
    """Whether it is a number within the range of float32, the precision of `Batch.payoffs`."""
    return isinstance(payoff, NUMBERS) and abs(float(payoff)) <= LARGEST


def turns_of(episodes: Sequence[Episode], *players: str) -> list[tuple[Episode, Turn]]:
    """The turns of the named players with their episodes, in order."""
    return [(episode, turn) for episode in episodes for turn in episode.turns if turn.player in players]


def encode_replies(turns: Sequence[tuple[Episode, Turn]], learner: str, policy: Policy) -> list[tuple[Episode, Turn]]:
    """Encode the replies of other players with the learner's tokens, and replies behind their `learnt_prompt`.

    Other turns of the learner are unchanged. A reply that was cut off before its end cannot be learnt behind another
    prompt: it gets weight 0.

    Args:
        turns: turns with their episodes.
        learner: the name of the learner.
        policy: the learner's policy.

    Raises:
        SelfplayError: the policy cannot produce a reply.
    """
    return [_encoded(episode, turn, turn.player == learner, policy) for episode, turn in turns]


def _encoded(episode: Episode, turn: Turn, own: bool, policy: Policy) -> tuple[Episode, Turn]:
    if not turn.ask.learnt_prompt:
        reply = turn.reply if own else policy.encode_reply(turn.ask, turn.reply.text)
        return episode, turn if own else replace(turn, reply=reply)
    if not own:
        asked = replace(turn.ask, messages=turn.ask.learnt_prompt)
        return episode, replace(turn, reply=policy.encode_reply(asked, turn.reply.text))
    moved = policy.moved_reply(turn.ask, turn.reply)
    if moved is None:
        return replace(episode, weight=0.0), replace(turn, reply=replace(turn.reply, logprobs=()))
    return episode, replace(turn, reply=moved)


def collate(turns: Sequence[tuple[Episode, Turn]], learner: str | None = None) -> Batch:
    """Collate turns into a batch, one row per turn.

    Args:
        turns: turns with their episodes.
        learner: the name of the learner; turns of other players, and those that are learnt behind another prompt, are
            marked off-policy and need no log-probs. None: all turns are the learner's.

    Raises:
        SelfplayError: there are no turns, or a turn has no tokens (its player cannot be trained).
    """
    if not turns:
        raise SelfplayError("the learner had no turn in this step; assign it a role, or play more episodes per step")
    lengths = [len(turn.reply.reply_ids) for _, turn in turns]
    off_policy = tuple(
        bool(turn.ask.learnt_prompt) or (learner is not None and turn.player != learner) for _, turn in turns
    )
    for (_, turn), length, other in zip(turns, lengths, off_policy, strict=True):
        if length == 0 or (not other and len(turn.reply.logprobs) != length):
            raise SelfplayError(
                f"a {turn.ask.role} turn has {length} tokens and {len(turn.reply.logprobs)} log-probs; "
                "a trainable player must return both, one per token"
            )
    longest = max(lengths)
    replies = [(*turn.reply.reply_ids, *(0,) * (longest - len(turn.reply.reply_ids))) for _, turn in turns]
    logprobs = [(*turn.reply.logprobs, *(0.0,) * (longest - len(turn.reply.logprobs))) for _, turn in turns]
    numbers: dict[object, int] = {}
    return Batch(
        prompts=tuple(torch.tensor(turn.reply.prompt_ids, dtype=torch.int64) for _, turn in turns),
        replies=torch.tensor(replies),
        mask=torch.arange(longest)[None] < torch.tensor(lengths)[:, None],
        logprobs=torch.tensor(logprobs),
        payoffs=torch.tensor([turn.payoff for _, turn in turns], dtype=torch.float32),
        weights=torch.tensor([episode.weight for episode, _ in turns]),
        groups=torch.tensor([numbers.setdefault(_group(e, t.ask), len(numbers)) for e, t in turns]),
        roles=tuple(turn.ask.role for _, turn in turns),
        choices=tuple(turn.reply.choices for _, turn in turns),
        sampled=all(episode.sampled for episode, _ in turns),
        off_policy=off_policy if any(off_policy) else (),
        follows=following(turns),
    )


def _group(episode: Episode, ask: Ask) -> object:
    return (ask.role,) if ask.group is None else (ask.role, episode.index, ask.group)
