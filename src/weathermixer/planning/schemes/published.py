"""The implementation that the authors of WeatherMixer published, as a description of its steps.

From their code (github.com/DeifiliaTo/Jigsaw_SC) and publication (arXiv 2507.05753): one, two or
four ranks hold a model. Two ranks cut the channels of activations in two, four also the tokens; all
weights are cut likewise. In a step four ranks do 0.67, 1.33, 1.33 and 0.67 of their mean. One rank
embeds and recovers patches by convolutions; several do so by products, and also compute the
gradient of the input. Kernels run one by one, DistributedDataParallel averages gradients over
replicas, Adam is that of lists of tensors. A loader's processes read whole samples' variables.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import cast

from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Layout
from weathermixer.model.architecture import Architecture
from weathermixer.model.arithmetic import Arithmetic
from weathermixer.planning.machine import Machine
from weathermixer.planning.schemes.description import (
    Scheme,
    StepDescription,
    require_mesh,
    require_plain_step,
    ring,
)
from weathermixer.planning.schemes.element_work import ADAM_PASSES, BUCKET_PASSES, Elements
from weathermixer.planning.schemes.published_products import (
    PublishedProducts,
    Ways,
    element_phase,
)
from weathermixer.planning.step_kind import StepKind
from weathermixer.planning.step_time import ElementWork, Phase

_MESHES: dict[int, tuple[int, int]] = {1: (1, 1), 2: (1, 2), 4: (2, 2)}
_CUT_CHANNELS = 72
"""Channels that are cut in two: 69 variables, and 3 static fields that are carried to the end."""
_READ_CHANNELS = 43
"""Channels of the 69 that a rank reads: 3 of 5 variables on 13 levels, and the 4 at the surface."""


def describe(
    architecture: Architecture, layout: Layout, kind: StepKind, machine: Machine
) -> StepDescription:
    """A step of the published implementation, on the rank of an instance that does most."""
    require_plain_step("published", kind)
    a = architecture
    if a.forcings or a.diagnostic or a.input_times > 1 or a.overlap or a.smoothing:
        raise UserError(
            "the scheme published has neither data.forcings nor data.diagnostic nor several "
            "data.input_times nor model.overlap nor model.smoothing: leave these out, or plan with "
            "another --scheme"
        )
    require_mesh(
        _MESHES.get(layout.ways) == (layout.domain, layout.tensor),
        "the published implementation has the meshes 1 × 1, 1 × 2 and 2 × 2 (domain × tensor), "
        f"not {layout.domain} × {layout.tensor}",
    )
    return PublishedStep(architecture, layout, kind, machine.ranks_per_node).description()


@dataclass(frozen=True)
class PublishedStep:
    """Parts of a step, each as the phases of its forward and of its backward pass."""

    architecture: Architecture
    layout: Layout
    kind: StepKind
    ranks_per_node: int

    @cached_property
    def ways(self) -> Ways:
        return cast(Ways, self.layout.ways)

    @cached_property
    def make(self) -> Elements:
        return Elements(self.kind.samples * Arithmetic.of(self.kind.dtype).products.itemsize)

    @cached_property
    def products(self) -> PublishedProducts:
        return PublishedProducts(
            self.ways,
            self.kind.dtype,
            Elements(Arithmetic.of(self.kind.dtype).products.itemsize),
            self.kind.samples,
            leaves_node=self.ways > self.ranks_per_node,
        )

    @property
    def channels(self) -> int:
        """Channels of a state that come out."""
        return self.architecture.prognostic if self.ways == 1 else _CUT_CHANNELS

    def description(self) -> StepDescription:
        """The whole step."""
        a = self.architecture
        embedding, block, head = self.embedding(), self.block(), self.head()
        weights = self.weights()
        gradient_bytes = weights * Arithmetic.of(self.kind.dtype).states.itemsize
        # The first weight of the first block has its gradient when the pass is nearly over.
        last = gradient_bytes / weights * a.tokens * a.token_hidden / self.ways
        replicas, tensors = self.layout.data, 4 * a.blocks + 3
        share = 2.0 * (replicas - 1) / replicas
        average = partial(
            ring, ranks=replicas, ranks_of_node=max(1, self.ranks_per_node // self.ways)
        )
        update = element_phase(
            "optimizer",
            Elements(4).work(weights, ADAM_PASSES, "optimizer", kernels=60),
            Elements(4).work(weights, BUCKET_PASSES, kernels=4 * tensors),
        )
        points = (a.grid[0] + 1) * a.grid[1]
        read = (a.prognostic if self.ways == 1 else _READ_CHANNELS) * points * 4
        return StepDescription(
            forward=(*embedding[0], *(block[0] * a.blocks), *head[0]),
            backward=(*head[1], *(block[1] * a.blocks), *embedding[1]),
            update=(update,),
            gradients=average((gradient_bytes - last) * share, calls=tensors - 1, is_beside=True),
            last_gradients=average(last * share),
            bytes_read=2.0 * read * self.kind.samples,
            # Weights, gradients, two averages and DDP's buckets; Adam takes two temporaries more.
            memory_bytes=max(5 * gradient_bytes + self.kept_bytes(), 7 * gradient_bytes),
        )

    def embedding(self) -> tuple[list[Phase], list[Phase]]:
        """Patches become tokens."""
        a = self.architecture
        features = _CUT_CHANNELS * a.points_per_patch
        if self.ways > 1:
            bias = self._bias(a.tokens * a.channels)
            forward = [*self.products.by_transpose(a.tokens, features, a.channels), bias]
            return forward, self._linear_backward(a.tokens, features, a.channels)
        fields = a.tokens * features
        # Static fields are joined, and what is convolved is turned to have its channels last.
        joined = self.make.work(fields, 6.0, kernels=5)
        product = self.products.transposed(features, a.tokens, a.channels)
        return (
            [*product, element_phase("convolution", joined, self._taps(a.channels))],
            [
                *product,
                element_phase("convolution", self.make.work(fields, 2.0), self._taps(a.channels)),
            ],
        )

    def block(self) -> tuple[list[Phase], list[Phase]]:
        """A block of mixing tokens and channels."""
        a, product, make = self.architecture, self.products, self.make
        n, c, h, k = a.tokens, a.channels, a.token_hidden, a.channel_hidden
        own, hidden_tokens, hidden_channels = (
            n * c / self.ways,
            c * h / self.ways,
            n * k / self.ways,
        )
        norm = (n / self.layout.domain, c / self.layout.tensor)
        forward = [
            element_phase("token norm", make.work(own, 2.0), make.norm(*norm)),
            *product.transposed(n, c, h),
            self._bias(c * h),
            element_phase("token activation", make.activation(hidden_tokens)),
            *product.plain(c, h, n),
            self._bias(c * n),
            element_phase("dropout", make.dropout(own)),
            *product.exchanged_transpose(c, n),
            element_phase("channel norm", make.work(own, 3.0), make.norm(*norm)),
            *product.by_transpose(n, c, k),
            self._bias(n * k),
            element_phase("channel activation", make.activation(hidden_channels)),
            *product.by_transpose(n, k, c),
            self._bias(n * c),
            element_phase("residual", make.dropout(own), make.work(own, 3.0)),
        ]
        backward = [
            element_phase("dropout, backward", make.dropout(own)),
            *self._linear_backward(n, k, c),
            element_phase(
                "channel activation, backward", make.activation_backward(hidden_channels)
            ),
            *self._linear_backward(n, c, k),
            element_phase("channel norm, backward", make.norm_backward(*norm), make.work(own, 3.0)),
            *product.exchanged_transpose(n, c),
            element_phase("dropout, backward", make.dropout(own)),
            self._bias_backward(c * n),
            *product.by_transpose(c, n, h),
            *product.transposed(c, h, n),
            element_phase("token activation, backward", make.activation_backward(hidden_tokens)),
            self._bias_backward(c * h),
            *product.by_transpose(n, h, c),
            *product.plain(n, c, h),
            element_phase("token norm, backward", make.norm_backward(*norm), make.work(own, 3.0)),
        ]
        return forward, backward

    def head(self) -> tuple[list[Phase], list[Phase]]:
        """Tokens become patches, and are blended with the state; the loss."""
        a, make = self.architecture, self.make
        points = a.grid[0] * a.grid[1]
        own, fields = a.tokens * a.channels / self.ways, points * self.channels / self.ways
        out = a.points_per_patch * self.channels
        norm = (a.tokens / self.layout.domain, a.channels / self.layout.tensor)
        rows, state = points / self.layout.domain, self.channels / self.layout.tensor
        # One rank has channels first, as stored, and turns states, results and gradients.
        turns = 2.0 if self.ways == 1 else 0.0
        taps = [self._taps(2 * a.channels)] if self.ways == 1 else []
        more_taps = [self._taps(4 * a.channels)] if self.ways == 1 else []
        forward = [
            element_phase("decoder norm", make.norm(*norm), make.work(own, 4.0), taps),
            *self.products.by_transpose(a.tokens, 2 * a.channels, out),
            self._bias(a.tokens * out),
            element_phase(
                "blend norms",
                make.work(fields, 4.0 + 2.0 * turns, kernels=3),
                make.norm(rows, state),
                make.norm(rows, 2 * state),
            ),
            *self.products.by_transpose(points, 2 * self.channels, self.channels),
            self._bias(points * self.channels),
            element_phase("loss", make.work(fields, 4.0, kernels=2)),
        ]
        backward = [
            element_phase("loss, backward", make.work(fields, 3.0)),
            *self._linear_backward(points, 2 * self.channels, self.channels),
            element_phase(
                "blend norms, backward",
                make.norm_backward(rows, 2 * state),
                make.work(fields, 2.0 + turns, kernels=2),
                make.norm_backward(rows, state),
                more_taps,
            ),
            *self._linear_backward(a.tokens, 2 * a.channels, out),
            element_phase(
                "decoder norm, backward",
                make.work(own, 4.0, kernels=2),
                make.norm_backward(*norm),
            ),
        ]
        return forward, backward

    def weights(self) -> float:
        """Weights that a rank holds, without biases and gains."""
        a = self.architecture
        maps = 2 * (a.tokens * a.token_hidden + a.channels * a.channel_hidden) * a.blocks
        edges = (_CUT_CHANNELS + 2 * self.channels) * a.points_per_patch * a.channels
        return (maps + edges) / self.ways

    def kept_bytes(self) -> float:
        """What waits for the backward pass: what kernels took in, and masks of dropout."""
        a = self.architecture
        latent, fields = a.tokens * a.channels, a.grid[0] * a.grid[1] * self.channels
        hidden = a.channels * a.token_hidden + a.tokens * a.channel_hidden
        kept = a.blocks * (4.5 * latent + 2.25 * hidden) + 4 * latent + 9 * fields
        return kept * self.make.element_bytes / self.ways

    def _linear_backward(self, rows: int, features: int, outputs: int) -> list[Phase]:
        """Gradients of a map ``X Wᵀ``: of its bias, its input and its weight."""
        return [
            self._bias_backward(rows * outputs),
            *self.products.plain(rows, outputs, features),
            *self.products.transposed(rows, outputs, features),
        ]

    def _bias(self, outputs: int) -> Phase:
        """A bias is added: on one rank within the product."""
        work = [] if self.ways == 1 else [self.make.work(outputs / self.ways, 2.0)]
        return element_phase("bias", work)

    def _bias_backward(self, outputs: int) -> Phase:
        return element_phase("bias, backward", self.make.work(outputs / self.ways, 1.0))

    def _taps(self, width: int) -> ElementWork:
        """What a convolution with as many taps as a patch has points takes besides its product."""
        a = self.architecture
        taps = a.tokens * width * a.points_per_patch * self.kind.samples
        return ElementWork("convolution_tap", taps, 0)


SCHEME = Scheme("published", "the implementation that the authors published", describe)
