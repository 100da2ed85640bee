"""Two-player normal-form games: classic games, random matrices and user-defined matrices."""

from collections.abc import Sequence
from random import Random
from typing import Annotated, Any, TypedDict

from selfplay.core import Ask, Game, Message, Play, SelfplayError, at_least, user
from selfplay.games.rules import forfeited, illegal
from selfplay.options import Name, NotEmpty, NotNegative, Number, Range, Seed, applies

Matrix = Sequence[Sequence[float]]


class MatrixGame(Game):
    """A bimatrix game with simultaneous moves.

    Each role sees the payoffs from its own perspective: its own payoff first, or only its own in a zero-sum game.

    Args:
        name: name of the game, shown to the roles.
        row: [n][m], payoffs of the row player.
        column: [n][m], payoffs of the column player; None for the negated row payoffs.
        rows: n names of the row player's actions; None for 1 to n.
        columns: m names of the column player's actions; None for 1 to m.
        forfeit: penalty for an illegal reply; keep it at least the largest loss in the matrices, or breaking the rules
            can be profitable.

    Raises:
        SelfplayError: the matrices are not rectangular and of one shape, or the number of names does not match.
    """

    roles = ("row", "column")

    def __init__(
        self,
        name: str,
        row: Matrix,
        column: Matrix | None = None,
        rows: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        forfeit: float = 10.0,
    ) -> None:
        self.row = [[float(x) for x in line] for line in row]
        negated = [[0.0 - x for x in line] for line in self.row]  # never -0
        self.column = negated if column is None else [[float(x) for x in line] for line in column]
        n, m = len(self.row), len(self.row[0]) if self.row else 0
        if not m or any(list(map(len, matrix)) != [m] * n for matrix in (self.row, self.column)):
            raise SelfplayError(f"the payoffs of {name} are {row} and {column}; give two matrices of one shape")
        self.rows, self.columns = _names(name, "rows", rows, n), _names(name, "columns", columns, m)
        self.zero_sum = self.column == negated
        self.name, self.forfeit = name, forfeit
        paid = [x for line in (*self.row, *self.column) for x in line]
        self.bounds = (min(paid), max(paid))

        transposed = [[*map(list, zip(*matrix, strict=True))] for matrix in (self.column, self.row)]
        self.asks = [
            Ask("row", self._view("row", self.rows, self.columns, self.row, self.column), options=self.rows),
            Ask("column", self._view("column", self.columns, self.rows, *transposed), options=self.columns),
        ]

    def play(self) -> Play:
        asks = self.asks
        replies = yield asks
        if offenders := illegal(asks, replies):
            return forfeited(self.roles, offenders, self.forfeit)
        i, j = self.rows.index(replies[0].text), self.columns.index(replies[1].text)
        return {"row": self.row[i][j], "column": self.column[i][j]}

    def _view(
        self, role: str, mine: Sequence[str], theirs: Sequence[str], own: Matrix, other: Matrix
    ) -> tuple[Message, ...]:
        """The prompt: one line per own action, with its payoffs against each action of the opponent."""
        lines = [f"{self.name.replace('_', ' ')}, you are {role}"]
        for action, earned, lost in zip(mine, own, other, strict=True):
            cells = [f"{a:g}" if self.zero_sum else f"{a:g} {b:g}" for a, b in zip(earned, lost, strict=True)]
            lines.append(f"{action}: " + ", ".join(f"{t} {cell}" for t, cell in zip(theirs, cells, strict=True)))
        return user("\n".join(lines))


def _names(name: str, which: str, given: Sequence[str] | None, number: int) -> tuple[str, ...]:
    names = tuple(map(str, range(1, number + 1) if given is None else given))
    if len(names) != number or len(set(names)) != number:
        raise SelfplayError(f"the {which} of {name} are named {', '.join(names)}; give {number} distinct names")
    return names


def random_matrix(size: int, zero_sum: bool, seed: int) -> dict[str, Any]:
    """Arguments of `MatrixGame` for a random game with payoffs uniform over the hundredths in [-1, 1].

    Args:
        size: number of actions of each role.
        zero_sum: whether the column payoffs are the negated row payoffs instead of independent.
        seed: determines the matrices.
    """
    at_least(1, size=size)
    rng = Random(f"matrix/{seed}")
    row, column = [[[rng.randint(-100, 100) / 100 for _ in range(size)] for _ in range(size)] for _ in range(2)]
    return {"row": row, "column": None if zero_sum else column, "rows": None, "columns": None}


def _symmetric(actions: str, row: Matrix) -> dict[str, Any]:
    names = actions.split()
    return {"row": row, "column": [*zip(*row, strict=True)], "rows": names, "columns": names}


CLASSICS: dict[str, dict[str, Any]] = {
    "rock_paper_scissors": _symmetric("rock paper scissors", [[0, -1, 1], [1, 0, -1], [-1, 1, 0]]),
    "matching_pennies": _symmetric("heads tails", [[1, -1], [-1, 1]]) | {"column": None},
    "prisoners_dilemma": _symmetric("cooperate defect", [[3, 0], [5, 1]]),
    "stag_hunt": _symmetric("stag hare", [[4, 1], [3, 2]]),
    "battle_of_the_sexes": _symmetric("opera football", [[3, 0], [0, 2]]) | {"column": [[2, 0], [0, 3]]},
    "chicken": _symmetric("swerve straight", [[0, -1], [1, -10]]),
}


class Custom(TypedDict):
    """Arguments of `MatrixGame`."""

    row: Annotated[Sequence[Sequence[Number]], NotEmpty()]
    column: Sequence[Sequence[Number]] | None
    rows: Sequence[str] | None
    columns: Sequence[str] | None


class Drawn(TypedDict):
    """Arguments of `random_matrix`."""

    size: Annotated[int, Range(1, 100)]
    zero_sum: bool
    seed: Seed


@applies(custom={"name": "custom"}, random={"name": "random"})
def matrix_game(
    name: Name = "rock_paper_scissors",
    custom: Custom | None = None,
    random: Drawn | None = None,
    forfeit: NotNegative = 10.0,
) -> MatrixGame:
    """Build a matrix game by name.

    Args:
        name: one of `CLASSICS`, "custom" or "random".
        custom: `row`, `column`, `rows` and `columns` of `MatrixGame`, used if the name is "custom".
        random: the arguments of `random_matrix`, used if the name is "random".
        forfeit: penalty for an illegal reply.

    Raises:
        SelfplayError: the name is unknown, its arguments are not given, or the matrices are invalid.
    """
    if name == "custom" and custom is not None:
        return MatrixGame(name, **custom, forfeit=forfeit)
    if name == "random" and random is not None:
        return MatrixGame(name, **random_matrix(**random), forfeit=forfeit)
    if name in ("custom", "random"):
        example = "row: [[2, 0], [0, 1]]" if name == "custom" else "size: 3, zero_sum: true, seed: 0"
        raise SelfplayError(
            f"game.name is '{name}', but game.{name} is not given; set it, for example to {{{example}}}"
        )
    if name not in CLASSICS:
        raise SelfplayError(f"game.name is '{name}'; choose one of {', '.join(CLASSICS)}, custom, random")
    return MatrixGame(name, **CLASSICS[name], forfeit=forfeit)
