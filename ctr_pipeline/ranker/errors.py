"""What the room raises."""


class RankerError(ValueError):
    """A layout, a model setting or a stored model that does not fit."""
