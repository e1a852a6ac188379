"""WeatherMixer: an MLP-Mixer for the atmosphere, and Jigsaw, the scheme that spreads it.

``import weathermixer as wm`` has what programs need of :mod:`weathermixer.api`, loaded when it is
asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from weathermixer.api import (
        Config,
        Layout,
        Model,
        Plan,
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
    "Model",
    "Plan",
    "TrainResult",
    "UserError",
    "open_model",
    "open_store",
    "plan",
    "run_as_rank",
    "score",
    "train",
]


def __getattr__(name: str) -> Any:
    # Commands and the scheme alone do without what these take seconds to load.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from weathermixer import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
