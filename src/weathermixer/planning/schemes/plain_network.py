"""The network in plain PyTorch, as phases; on several ranks, cut as Megatron-LM cuts it.

A rank of ``P`` has ``1/P`` of the tokens between the MLPs, and ``1/P`` of each MLP's hidden layer.
An MLP gathers its input and reduce-scatters its output, and does so with their gradients. Each part
of the network is one phase for each pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from weathermixer.model.architecture import Architecture
from weathermixer.model.arithmetic import Arithmetic
from weathermixer.planning.schemes.description import require_whole_passes
from weathermixer.planning.schemes.element_work import FUSED_ADAM_PASSES, Elements
from weathermixer.planning.step_kind import StepKind
from weathermixer.planning.step_time import ElementWork, MatrixProduct, Phase, PlannedExchange


@dataclass(frozen=True)
class PlainNetwork:
    """What a rank of ``ranks`` does of a network for ``kind.samples`` samples."""

    architecture: Architecture
    kind: StepKind
    ranks: int = 1
    leaves_node: bool = False

    def __post_init__(self) -> None:
        require_whole_passes(self.kind)

    @cached_property
    def element_bytes(self) -> int:
        """Bytes of an element of an activation in encoder, blocks and decoder."""
        return Arithmetic.of(self.kind.dtype).products.itemsize

    @cached_property
    def weight_bytes(self) -> int:
        """Bytes of an element of a weight and of its gradient, as they are held."""
        return Arithmetic.of(self.kind.dtype).states.itemsize

    @cached_property
    def make(self) -> Elements:
        return Elements(self.element_bytes * self.kind.samples)

    def block_weights(self) -> int:
        """Weights, biases, gains of a block."""
        a = self.architecture
        maps = sum(
            2 * size * hidden + size + hidden
            for size, hidden in (
                (a.tokens, a.token_hidden),
                (a.channels, a.channel_hidden),
            )
        )
        return maps + 4 * a.channels

    def norm_weights(self) -> int:
        """Gains and biases of a block's norms: all ranks hold them, and sum their gradients."""
        return 4 * self.architecture.channels

    def replicated_block_weights(self) -> int:
        """What all ranks hold of a block: norms, and output biases, whose gradients are whole."""
        return self.norm_weights() + self.architecture.tokens + self.architecture.channels

    def rank_block_weights(self) -> float:
        """What a rank holds of a block's weights."""
        shared = self.replicated_block_weights()
        return shared + (self.block_weights() - shared) / self.ranks

    def encoder_inputs(self) -> int:
        """Values of which the encoder makes a token; those around a patch are mapped with it."""
        return self.architecture.input_features.size + self.architecture.ring_features.size

    def encoder_weights(self) -> int:
        """Weights and biases of the encoder."""
        return (self.encoder_inputs() + 1) * self.architecture.channels

    def head_weights(self) -> int:
        """Weights of decoder and head."""
        a = self.architecture
        predicted, both = a.predicted, a.predicted + a.prognostic
        decoder = (2 * a.channels + 1) * a.predicted_features.size + 2 * a.channels
        if a.smoothing:
            decoder += both * a.kernel_size + a.prognostic * a.grid[0]
            decoder += a.predicted * a.grid[0] * a.grid[1]
        return decoder + (
            (both + 1) * predicted + 2 * predicted + 2 * both if a.prediction == "state" else 0
        )

    def edge_weights(self) -> int:
        """Weights of encoder, decoder and head."""
        return self.encoder_weights() + self.head_weights()

    def passes(self) -> tuple[tuple[Phase, ...], tuple[Phase, ...], tuple[Phase, ...]]:
        """All forward passes; the backward passes of all applications but the first; that one's.

        Gradients of weights are complete in the last of the three alone.
        """
        num_blocks, rollout = self.architecture.blocks, self.kind.rollout
        encoder, block, head = self.encoder(), self.block(), self.head()
        forward = (encoder[0], *[block[0]] * num_blocks, head[0])
        of_blocks = [block[1]] * num_blocks
        later = (self.head(of_state=True)[1], *of_blocks, self.encoder(of_state=True)[1])
        return forward * rollout, later * (rollout - 1), (head[1], *of_blocks, encoder[1])

    def encoder(self, *, of_state: bool = False) -> tuple[Phase, Phase]:
        """Patches become tokens; ``of_state``, a forecast, the gradient is needed too."""
        a = self.architecture
        fields = a.tokens * self.encoder_inputs() / self.ranks
        product = self._product(a.tokens // self.ranks, a.channels, self.encoder_inputs())
        latent = a.tokens * a.channels / self.ranks
        backward, of_weight = [self.make.work(latent, 1.0)], [product]
        if of_state:
            backward.append(self.make.work(fields, 4.0, kernels=2))
        edges = self._edges(a.overlap, a.prognostic, self.element_bytes)
        return (
            self._phase("encoder", [product], [self.make.work(fields, 4.0, kernels=2)], edges),
            self._phase(
                "encoder, backward",
                of_weight * (1 + of_state),
                backward,
                edges if of_state else (),
            ),
        )

    def block(self) -> tuple[Phase, Phase]:
        """Mixing of tokens, then of channels; backward with what is recomputed for it."""
        a, own = self.architecture, self.architecture.tokens // self.ranks
        latent = own * a.channels
        products: list[MatrixProduct] = []
        forward: list[ElementWork] = []
        backward: list[ElementWork] = []
        exchanges: list[PlannedExchange] = []
        for size, hidden, rows in (
            (a.tokens, a.token_hidden, a.channels),
            (a.channels, a.channel_hidden, a.tokens),
        ):
            cut = hidden // self.ranks
            products += [self._product(rows, cut, size), self._product(rows, size, cut)]
            norm = self.make.norm(own, a.channels)
            forward += [*norm, *self.make.activation(rows * cut), self.make.work(latent, 5.0)]
            backward += [
                *self.make.norm_backward(own, a.channels),
                *self.make.activation_backward(rows * cut),
                self.make.work(latent, 6.0),
                self.make.work(rows * cut, 1.0),
            ]
            exchanges += [self._gather(), self._gather()] if self.ranks > 1 else []
        whole = self._phase("block", products, forward, exchanges)
        products, backward_exchanges = products * 2, exchanges
        if (
            self.kind.recompute == "blocks"
        ):  # which ends when all that is kept is there: before the last map
            products = [*whole.products[:-1], *products]
            backward, backward_exchanges = forward + backward, [*exchanges[:-1], *exchanges]
        return whole, self._phase("block, backward", products, backward, backward_exchanges)

    def head(self, *, of_state: bool = False) -> tuple[Phase, Phase]:
        """Tokens become patches, and are added to the state or blended with it; the loss.

        Where fields are smoothed, of a state that is a forecast the gradient is needed too.
        """
        a, own = self.architecture, self.architecture.tokens // self.ranks
        latent, out = own * a.channels, a.predicted_features.size
        rows, state = own * a.points_per_patch, a.predicted
        fields = rows * state
        decoder = self._product(own, out, 2 * a.channels)
        forward = [*self.make.norm(own, a.channels), self.make.work(latent, 4.0)]
        backward = [*self.make.norm_backward(own, a.channels), self.make.work(latent, 4.0)]
        products = [decoder]
        if a.prediction == "state":
            products.append(self._product(rows, state, state + a.prognostic))
            for columns in (state, state + a.prognostic):
                forward += self.make.norm(rows, columns)
                backward += self.make.norm_backward(rows, columns)
        forward.append(self.make.work(fields, 12.0, kernels=8))
        backward.append(self.make.work(fields, 9.0, kernels=6))
        if a.smoothing:
            size = a.kernel_size
            for channels, times in ((state, 1), (a.prognostic, int(of_state))):
                passes, kernels = 3.0 * times + 4.0, (times + 2) * size
                forward.append(self.make.work(rows * channels, 3.0 * size, kernels=size))
                backward.append(self.make.work(rows * channels, passes * size, kernels=kernels))
        edges, edges_back = (
            self._edges(a.smoothing, channels, self.weight_bytes)
            for channels in (state + a.prognostic, state + a.prognostic * of_state)
        )
        return (
            self._phase("head and loss", products, forward, edges),
            self._phase("head and loss, backward", [*products, *products], backward, edges_back),
        )

    def update(self, weights: float) -> Phase:
        """The gradient's norm, its clipping, Adam in one kernel, and an average of the weights."""
        work = Elements(self.weight_bytes)
        average = [work.work(weights, 3.0, kernels=1)] if self.kind.keeps_average else []
        return self._phase(
            "optimizer",
            [],
            [
                work.work(weights, 3.0, kernels=20),
                work.work(weights, FUSED_ADAM_PASSES, "optimizer", kernels=4),
                *average,
            ],
        )

    @property
    def num_averages(self) -> float:
        """How many averages are kept of each weight, of Adam's and of the weights themselves."""
        return 3.0 if self.kind.keeps_average else 2.0

    def bytes_read(self) -> float:
        """Bytes that a rank reads for a step: of each sample a state and those after it."""
        a = self.architecture
        states = float(a.input_times + self.kind.rollout)
        return states * a.predicted * a.grid[0] * a.grid[1] * 4 * self.kind.samples / self.ranks

    def _edges(self, width: int, channels: int, element_bytes: int) -> list[PlannedExchange]:
        """A rank sends both neighbours what of its longitudes lies around their points."""
        if not width or self.ranks == 1:
            return []
        edges = 2 * width * self.architecture.grid[0] * channels * self.kind.samples
        return [PlannedExchange(edges * element_bytes, 2, self.leaves_node)]

    def _gather(self) -> PlannedExchange:
        """All ranks gather the tokens of all, or the sums of what all made of them."""
        size = self.architecture.tokens * self.architecture.channels
        num_bytes = size * self.element_bytes * self.kind.samples * (self.ranks - 1) / self.ranks
        return PlannedExchange(num_bytes, 1, self.leaves_node)

    def _product(self, m: int, n: int, k: int) -> MatrixProduct:
        return MatrixProduct(m, n, k, self.kind.dtype, self.kind.samples)

    @staticmethod
    def _phase(
        name: str,
        products: Iterable[MatrixProduct],
        work: Iterable[ElementWork],
        exchanges: Iterable[PlannedExchange] = (),
    ) -> Phase:
        return Phase(name, tuple(products), tuple(work), tuple(exchanges))
