"""Parallel schemes other than Jigsaw, described so that the same machine times them all."""

from weathermixer.errors import UserError
from weathermixer.planning.schemes import data_parallel, megatron, published
from weathermixer.planning.schemes.description import Scheme, StepDescription

OTHER_SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (published.SCHEME, megatron.SCHEME, data_parallel.FSDP, data_parallel.DDP)
}

__all__ = ["OTHER_SCHEMES", "Scheme", "StepDescription", "find_scheme"]


def find_scheme(name: str) -> Scheme:
    """A scheme by its name; UserError where there is none of that name."""
    if name not in OTHER_SCHEMES:
        raise UserError(
            f"there is no scheme {name}: choose jigsaw, or one of {', '.join(OTHER_SCHEMES)}"
        )
    return OTHER_SCHEMES[name]
