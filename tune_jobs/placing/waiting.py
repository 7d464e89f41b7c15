"""The line of trials that wait for a place. Pure: decides when nobody else may join, so that nobody starves."""


class WaitingLine:
    """Trials in the order in which they began to wait.

    Ray gives a place to whichever waiting trial fits first, so a stream of small trials can overtake a large one for
    ever. When the first in line was overtaken `patience` times, nobody may join until it has its place: running
    trials end, room gathers, and it starts.

    Args:
        patience: How often one may be overtaken.

    >>> line = WaitingLine(patience=1)
    >>> for name in ("large", "small", "tiny"): line.join(name)
    >>> line.leave("small"); line.is_impatient
    True
    >>> line.leave("large"); line.is_impatient
    False
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._overtaken: dict[str, int] = {}

    @property
    def is_impatient(self) -> bool:
        """Whether somebody was overtaken too often."""
        return any(times >= self._patience for times in self._overtaken.values())

    def join(self, name: str) -> None:
        """Somebody begins to wait."""
        self._overtaken.setdefault(name, 0)

    def leave(self, name: str) -> None:
        """Somebody got a place; everybody before it was overtaken once."""
        if name not in self._overtaken:
            return
        for other in self._overtaken:
            if other == name:
                break
            self._overtaken[other] += 1
        del self._overtaken[name]
