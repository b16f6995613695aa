"""What the workers of a benchmark run: nothing, as fast as it goes."""

from mainspring_worker import executor


@executor
async def noop(data: object) -> object:
    """Return the input."""
    return data
