"""Errors that users can fix. Imports nothing slow."""


class SelfplayError(Exception):
    """A user error, described in one sentence: object, value, remedy. Printed without a traceback."""


def at_least(least: int, **options: object) -> None:
    """Raise SelfplayError unless every option is an integer of at least `least`."""
    for name, value in options.items():
        if type(value) is not int or value < least:
            raise SelfplayError(f"{name} is {value}, but it must be a whole number, at least {least}; change it")
