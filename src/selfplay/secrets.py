"""Detect keys, tokens and passwords, so that they are neither saved nor printed.

Only the standard library is imported, since the command line is checked before anything is loaded.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

KEYS = re.compile(
    r"\bsk-(?=[\w-]*\d)[\w-]{12,}|\bsk-[A-Za-z]{20,}"  # OpenAI, Anthropic, OpenRouter
    r"|\b(?:sk|rk|pk)_(?:live|test)_\w{10,}"
    r"|\b(?:AKIA|ASIA|AROA)[0-9A-Z]{12,}"  # Amazon
    r"|\bhf_\w{16,}|\bgh[opusr]_\w{16,}|\bgithub_pat_\w{16,}|\bglpat-[\w-]{16,}"
    r"|\bAIza[\w-]{30,}|\bya29\.[\w-]{16,}"  # Google
    r"|\bxox[abprs]-[\w-]{10,}|\b(?:gsk|nvapi|xai|r8|pplx)[-_][0-9A-Za-z_-]{20,}"
    r"|\bnpm_\w{30,}|\bpypi-[\w-]{16,}|\beyJ[\w-]{8,}\.[\w-]{8,}"
    r"|\bBearer\s+[\w.~+/-]{12,}|-----BEGIN [A-Z ]*PRIVATE KEY"
)
PASSWORD = re.compile(r"//[^/@\s:]*:[^/@\s]+@")  # in a URL
HOLDER = re.compile(
    r"(?:^|[._-])(?:key|api_?key|secret(?:_?key)?|password|passwd|auth_?token|access_?token|bearer)$", re.I
)
VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,127}")  # the name of an environment variable
LONG = 20  # length from which a word may be a random string


def suspicious(text: str) -> bool:
    """Whether the text contains a key or password, by the formats of common providers."""
    return bool(KEYS.search(text) or PASSWORD.search(text))


def is_variable(name: str) -> bool:
    """Whether it may be the name of an environment variable: upper case, and not a key itself."""
    return bool(VARIABLE.fullmatch(name)) and not suspicious(name) and not any(map(_is_random, name.split("_")))


def holds_secret(key: str, value: object) -> bool:
    """Whether an option's value is a secret: by its format, or because the option must name an environment variable."""
    if isinstance(value, Mapping):
        return any(holds_secret(f"{key}.{name}", part) for name, part in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return any(holds_secret(key, part) for part in value)
    text = str(value)
    if suspicious(text):
        return True
    named = HOLDER.search(key) is not None and value is not None and not isinstance(value, bool)
    return named and not (is_variable(text) or text.startswith("${") or text in ("", "null"))


def secrets(config: object, key: str = "") -> Iterator[str]:
    """The dotted keys of all secrets in nested mappings and lists."""
    if isinstance(config, Mapping):
        for name, part in config.items():
            yield from secrets(part, f"{key}.{name}" if key else str(name))
    elif isinstance(config, Sequence) and not isinstance(config, str):
        for part in config:
            yield from secrets(part, key)
    elif holds_secret(key, config):
        yield key


def secret_error(key: str) -> str:
    """The error message for a secret in an option that would be saved; it does not repeat the secret."""
    return (
        f"{key} contains what looks like a key or a password (not repeated here), which the run's files would store; "
        "put it into an environment variable, for example JUDGE_API_KEY, and give the NAME of that variable instead"
    )


def _is_random(part: str) -> bool:
    """Whether part of a name looks like a random string rather than a word."""
    digits = sum(c.isdigit() for c in part)
    return len(part) >= LONG and (digits > 1 or len(part) > 2 * LONG)
