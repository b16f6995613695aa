"""How to install an extra of this release: from its wheel, because no package index has the project."""

from importlib.metadata import version


def wheel_with(*extras: str) -> str:
    """Return the command that installs the extras; the wheel is that of the version that runs."""
    return f"pip install 'mainspring-{version('mainspring')}-py3-none-any.whl[{','.join(extras)}]' (docs/deploying.md)"
