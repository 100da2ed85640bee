"""What a user can mend. Nothing heavy is imported here."""


class SelfplayError(Exception):
    """A user's mistake, told in one sentence: the thing, its value, the remedy. Shown without a traceback."""
