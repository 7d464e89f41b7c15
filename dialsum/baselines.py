"""The lead baseline: the first turns of the dialogue as its summary."""


def lead(dialogue: str, turns: int = 3) -> str:
    """Returns the first turns of a cleaned dialogue, with their speakers.

    >>> lead("#Person1#: 안녕.\\n#Person2#: 네.\\n#Person1#: 끝.", 2)
    '#Person1#: 안녕. #Person2#: 네.'
    """
    return " ".join(dialogue.split("\n")[:turns])
