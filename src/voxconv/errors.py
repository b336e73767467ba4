"""The sentence of every rejection: function, argument, value, rule, shapes."""

from __future__ import annotations

from typing import Any

__all__ = ["MissingExtra", "rejection"]


def rejection(function: str, argument: str, value: object, rule: str, **shapes: Any) -> str:
    """Compose the text of an error.

    Parameters
    ----------
    function, argument : str
        What was called, and the argument that was refused.
    value : object
        What was received; its ``repr`` is cut at 120 characters.
    rule : str
        What would have been accepted, starting with a verb ("must be ...").
    **shapes : tuple of int
        Shapes or sizes that the rule depends on, named as the caller knows them.

    Returns
    -------
    str
    """
    try:
        received = repr(value)
    except Exception:  # an object may refuse to be shown, as an integer of 5000 digits does
        received = f"<{type(value).__name__}>"
    if len(received) > 120:
        received = received[:117] + "..."
    context = ", ".join(f"{name}={shape!r}" for name, shape in shapes.items())
    return f"{function}: {argument}={received} {rule}" + (f" ({context})" if context else "")


class MissingExtra(RuntimeError):
    """An optional dependency is not installed; the text says what to install."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed; "
            f"install it with: pip install 'voxconv[{extra}]'"
        )
