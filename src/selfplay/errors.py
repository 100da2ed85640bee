"""What a user can mend. Nothing heavy is imported here."""


class SelfplayError(Exception):
    """A user's mistake, told in one sentence: the thing, its value, the remedy. Shown without a traceback."""


def at_least(least: int, **options: object) -> None:
    """Raise SelfplayError unless every option is a whole number of at least `least`."""
    for name, value in options.items():
        if type(value) is not int or value < least:
            raise SelfplayError(f"{name} is {value}, but it must be a whole number, at least {least}; change it")
