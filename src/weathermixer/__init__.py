"""WeatherMixer: an MLP-Mixer for the atmosphere, and Jigsaw, the scheme that spreads it.

``import weathermixer as wm`` has what programs need of :mod:`weathermixer.api`, loaded when it is
asked for.
"""

from __future__ import annotations

__version__ = "0.1.0"

# Nothing is imported here, not even typing, in whose place a module of the user may stand until
# `interpreter` has seen to it. Type checkers take a name such as this for true.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from weathermixer.api import (
        Config,
        Layout,
        Plan,
        TrainedModel,
        TrainResult,
        UserError,
        open_model,
        open_store,
        plan,
        run_as_rank,
        score,
        train,
    )

__all__ = [
    "Config",
    "Layout",
    "Plan",
    "TrainResult",
    "TrainedModel",
    "UserError",
    "open_model",
    "open_store",
    "plan",
    "run_as_rank",
    "score",
    "train",
]


def __getattr__(name: str) -> object:
    # Commands and the scheme alone do without what these take seconds to load.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from weathermixer import api

    found: object = getattr(api, name)
    return found


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
