"""A network that learns from noise on one device: all of a training step but the reading."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from weathermixer.config import Config, Parallel, Training
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.architecture import Architecture, architecture_of
from weathermixer.model.arithmetic import Arithmetic
from weathermixer.model.compiling import compile_between_products, compiled
from weathermixer.model.cuts import Part, build
from weathermixer.training.loss import weighted_mse
from weathermixer.training.passes import Objective
from weathermixer.training.state import TrainingState
from weathermixer.training.step import Outcome, compute_gradients, take_step

QUARTER_DEGREE = (720, 1440)
# What a small network has of the published one: everything, in fewer numbers.
SMALL_GRID = (8, 48)
SMALL = {"patch": [1, 2], "channels": 48, "blocks": 2}


def published(*, small: bool, dtype: str, compile: bool = False) -> tuple[Architecture, Training]:
    """The published network at 0.25°, 1.06 B parameters and 17,280 tokens; or a small one."""
    config = Config.model_validate(
        {
            "preset": "published",
            "model": SMALL if small else {},
            "data": {"store": "none", **({"levels": [500, 850]} if small else {})},
            "training": {"dtype": dtype, "compile": compile, "warmup_steps": 0},
        }
    )
    grid = SMALL_GRID if small else QUARTER_DEGREE
    return architecture_of(config.data, config.model, grid), config.training


@dataclass
class Learner:
    """A rank's part of a network, its optimizer, and a batch of one sample of noise."""

    state: TrainingState
    mesh: Mesh
    training: Training
    objective: Objective
    states: Tensor

    @classmethod
    def on(
        cls,
        mesh: Mesh,
        architecture: Architecture,
        training: Training,
        *,
        noise_on: torch.device | None = None,
    ) -> Self:
        """Build it on the device of a mesh.

        The noise is drawn there, or where ``noise_on`` says: devices draw different numbers.
        """
        arithmetic, part = Arithmetic.of(training.dtype), Part.on(mesh, architecture)
        channels = part.channels
        columns = range(architecture.grid[1])[part.longitudes]
        model = build(
            architecture,
            mesh,
            seed=training.seed,
            increment_scale=torch.ones(len(channels)),
            dtype=arithmetic.states,
            arithmetic=arithmetic.products,
            recompute=training.recompute == "blocks",
        )
        error = weighted_mse
        if training.compile:
            compile_between_products(model)
            error = compiled(weighted_mse)
        noise_on = noise_on or mesh.device
        generator = torch.Generator(noise_on).manual_seed(0)

        def noise(*shape: int) -> Tensor:
            values = torch.randn(shape, generator=generator, device=noise_on)
            return values.to(mesh.device, arithmetic.states)

        rows = architecture.grid[0]
        objective = Objective(
            static=noise(len(range(architecture.static)[part.static]), rows, len(columns)),
            weights=noise(len(channels), rows, 1).square(),
            share=len(channels) * len(columns) / (architecture.prognostic * architecture.grid[1]),
            error=error,
        )
        state = TrainingState.initial(model, mesh, training, Parallel())
        return cls(state, mesh, training, objective, noise(1, 2, len(channels), rows, len(columns)))

    def step(self) -> Outcome:
        """Take a step of training."""
        return take_step(self.state, self.mesh, self.training, self.states, self.objective)

    def passes(self) -> None:
        """Forward and backward pass alone; the gradients are dropped."""
        compute_gradients(self.state, self.training, self.states, self.objective)
        self.state.model.zero_grad()
