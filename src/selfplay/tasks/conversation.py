"""Chat messages in the fields of records: a single question with its reply, in the two usual forms.

A message is {"role": "user", "content": "..."} or, as in ShareGPT's files, {"from": "human", "value": "..."}.
"""

from collections.abc import Sequence
from typing import Any

from selfplay.errors import SelfplayError

ROLES = {"system": "system", "user": "user", "assistant": "assistant", "human": "user", "gpt": "assistant"}
FORMS = (("role", "content"), ("from", "value"))
Said = tuple[str, str]  # role, content


def asked(value: object, where: str, name: str, separator: str) -> str:
    """The question of a conversation; a system message is put before it.

    Args:
        value: the messages, with or without a last one of the assistant.
        where: the row, for errors: "line 3 of chats.jsonl".
        name: its field.
        separator: between the system message and the question.

    Raises:
        SelfplayError: these are no messages, or more than one question.
    """
    said = _messages(value, where, name)
    before = said[:-1] if said and said[-1][0] == "assistant" else said
    roles = [role for role, _ in before]
    if roles not in (["user"], ["system", "user"]):
        raise SelfplayError(
            f"{where} has a conversation of {', '.join(role for role, _ in said) or 'no messages'} as its '{name}', "
            "but a task has one question and one reply: (system,) user, assistant; split the row, or leave it out"
        )
    return separator.join(content for _, content in before if content)


def replied(value: object, where: str, name: str) -> str:
    """The last message of a conversation, which must be the assistant's.

    Raises:
        SelfplayError: these are no messages, or the last one is not the assistant's.
    """
    said = _messages(value, where, name)
    if not said or said[-1][0] != "assistant":
        raise SelfplayError(
            f"{where} has a conversation as its '{name}' that does not end with a message of the assistant, so it "
            "holds no reply; complete it, or leave the row out"
        )
    return said[-1][1]


def _messages(value: object, where: str, name: str) -> list[Said]:
    parts: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
    found = []
    for part in parts:
        form = next((form for form in FORMS if isinstance(part, dict) and set(form) <= set(part)), None)
        if form is None or not isinstance(part[form[1]], str):
            raise SelfplayError(
                f"{where} has a {type(value).__name__} as its '{name}' that is neither a text nor a list of messages "
                'with texts, such as {"role": "user", "content": "..."}; name another field, or convert it'
            )
        if part[form[0]] not in ROLES:
            raise SelfplayError(
                f"{where} has a message of the role '{part[form[0]]}' in its '{name}' (roles: {', '.join(ROLES)}); "
                "remove it, or leave the row out"
            )
        found.append((ROLES[part[form[0]]], part[form[1]]))
    return found
