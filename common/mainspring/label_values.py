"""The values of one label of a metric, bounded: each is a series that Prometheus keeps."""

from mainspring.limits import label_values_max


class LabelValues:
    """The first values that are met keep their names; all that come after them are "other"."""

    def __init__(self, most: int = label_values_max) -> None:
        self._most = most
        self._known: set[str] = set()

    def of(self, value: str) -> str:
        """Return what a value is called in the label."""
        if value in self._known:
            return value
        if len(self._known) >= self._most:
            return "other"
        self._known.add(value)
        return value
