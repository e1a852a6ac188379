"""The tensors of a training step in the order in which they come and go, as sizes.

It follows ``take_step`` and the modules that it runs: what is kept for the backward pass, and what
is held only while something else is made. A tensor of which no size of the network is a factor,
such as a bias, is left out where it comes and goes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from weathermixer.config.training_settings import ErrorKind
from weathermixer.jigsaw.layers import Linear
from weathermixer.jigsaw.layout import shard
from weathermixer.jigsaw.pieces import local_parameters
from weathermixer.model.mixer import Blend, WeatherMixer
from weathermixer.planning.block_tensors import (
    BlockTensors,
    SavedMixing,
    SavedNorm,
    linear,
    mixings,
    norm_of,
)
from weathermixer.planning.gradient_tensors import Gradients
from weathermixer.planning.ledger import Held, Ledger
from weathermixer.planning.product_tensors import Products, SavedMaps
from weathermixer.planning.ring_work import Ring
from weathermixer.planning.sample_sizes import SampleSizes
from weathermixer.planning.small_scales_work import SmallScalesTensors, SmallScalesWork
from weathermixer.planning.smoothing_work import SmoothingTensors, SmoothingWork
from weathermixer.planning.step_kind import StepKind

# Tensors of a state's size that are made of its errors to have what they cost, and its slopes.
_COST_TENSORS: dict[ErrorKind, int] = {"squared": 2, "absolute": 2, "huber": 3, "crps": 3}
_SLOPE_TENSORS: dict[ErrorKind, int] = {"squared": 2, "absolute": 1, "huber": 0, "crps": 1}


@dataclass
class _SavedApplication:
    """What one application of the network leaves for the backward pass.

    Of a block that is computed again, that is its input.
    """

    encoder: SavedMaps
    ring: SavedMaps | None
    blocks: list[list[SavedMixing] | Held]
    norm: SavedNorm
    decoder: SavedMaps
    smoothing: list[Held]
    point_noise: Held | None
    head: tuple[SavedNorm, SavedNorm, SavedMaps] | None
    errors: list[Held]


class StepTensors:
    """A training step on the rank that a model was built for; :meth:`walk` takes it."""

    def __init__(self, ledger: Ledger, model: WeatherMixer, kind: StepKind) -> None:
        self._new, self._model, self._kind = ledger.new, model, kind
        self._by_block = kind.recompute == "blocks"
        self._samples = kind.passing[0]  # that go through the network now
        self._wide = next(model.parameters()).element_size()
        self._narrow = model.arithmetic.itemsize if model.arithmetic else self._wide
        self._sizes = SampleSizes.of(model)
        layers = [each for each in model.modules() if isinstance(each, Linear)]
        in_blocks = {each for each in model.blocks.modules() if isinstance(each, Linear)}
        apart = in_blocks if self._by_block else set()
        data = layers[0].pieces["weight"].destination.rows_over
        self._gradients = Gradients(
            ledger,
            weight_bytes=self._wide,
            gradient_bytes=kind.gradient_bytes or self._wide,
            sharded=kind.shards_optimizer and data is not None,
            replicas=data.size if data is not None else 1,
            uses=lambda layer: self._applications * (kind.latent if layer in in_blocks else 1),
            apart=apart,
        )
        self._ring = Ring.of(model)
        self._smoothing = SmoothingWork.of(model)
        self._compared = SmallScalesWork.of(model, kind)
        is_wide = {*model.head.children()}
        self._products = Products(
            ledger,
            layers,
            self._gradients,
            samples=self._samples,
            weight_bytes=self._wide,
            element_bytes=lambda layer: self._wide if layer in is_wide else self._narrow,
            apart=apart,
        )
        self._blocks = BlockTensors(
            ledger.new,
            self._products,
            wide_bytes=self._wide,
            narrow_bytes=self._narrow,
            wide_norms=set(model.head.children()),
        )

    def walk(self) -> None:
        """Take the step; of samples that pass like those before them, some stand for all."""
        resident = [self._new(num_bytes, part) for num_bytes, part in self._resident()]
        # The first find no gradients, the next do, and the last let go of weights.
        first, *later = self._kind.passing
        passing = [first, *later[:1], *later[1:][-1:]]
        for number, samples in enumerate(passing):
            self._samples = self._products.samples = samples
            self._pass(is_last_batch=number == len(passing) - 1)
        del resident

    def _pass(self, *, is_last_batch: bool) -> None:
        """Pass the samples in hand through the network and back, by stage or all at once."""
        rollout, length = self._kind.rollout, self._applications
        # Of what earlier stages make, nothing is kept but the states that later ones start from.
        starts = [self._new(self._state) for _ in range(rollout - length)]
        expanded = self._sizes.input_times if self._kind.members > 1 else 0
        given = [self._new(self._state) for _ in range(expanded)]
        later: list[Held] = []
        for first in reversed(range(0, rollout, length)):
            is_last = is_last_batch and first == 0
            self._gradients.begin_pass(holds=not is_last)
            saved: list[_SavedApplication] = []
            forecast: list[Held] = []
            for _ in range(length):
                state, of_application = self._forward()
                forecast.append(state)
                saved.append(of_application)
                del state, of_application
            if is_last:
                self._products.weights.forget()
            # The root of the pass, and what comes to it from later stages, are held until it ends.
            roots = [*forecast[-1:], *later] if later else []
            forecast.clear()
            gradient = [*later]
            while saved:
                gradient = self._backward(saved.pop(), gradient, is_first=first + len(saved) == 0)
            self._products.deferred.finish()
            self._gradients.finish()
            later = [self._new(self._state)] if gradient else []
            del gradient, roots
            del starts[-1:]
        del given

    def _resident(self) -> list[tuple[int, str]]:
        """What there is before the step and after it."""
        parameters = owned = count = 0
        for _, parameter, piece in local_parameters(self._model):
            data, rows = piece.destination.rows_over, parameter.shape[0]
            if self._kind.shards_optimizer and data is not None:
                rows = len(shard(rows, data.size, data.index))
            parameters, count = parameters + parameter.numel(), count + 1
            owned += rows * math.prod(parameter.shape[1:])
        parameters += sum(buffer.numel() for buffer in self._model.buffers())
        sizes = self._sizes
        samples = sizes.static + sizes.channels * self._model.architecture.grid[0]
        samples += sizes.batch(self._kind.samples_read, self._kind.rollout)
        return [
            (parameters * self._wide, "parameters"),
            (2 * owned * self._wide + 4 * count, "optimizer"),
            (owned * self._wide if self._kind.keeps_average else 0, "average"),
            (samples * self._wide, "samples"),
        ]

    @property
    def _applications(self) -> int:
        """Applications of the network in a pass."""
        return 1 if self._kind.recompute == "stages" else self._kind.rollout

    @property
    def _state(self) -> int:
        """Bytes of the states in hand at one time."""
        return self._sizes.state * self._samples * self._wide

    @property
    def _prognostic(self) -> int:
        """Bytes of what the network is given of the states in hand at one time."""
        return self._sizes.prognostic * self._samples * self._wide

    @property
    def _smooth(self) -> SmoothingTensors | None:
        """Smoothing of the states in hand."""
        if self._smoothing is None:
            return None
        return SmoothingTensors(self._smoothing, self._new, self._samples * self._wide, self._wide)

    @property
    def _small_scales(self) -> SmallScalesTensors | None:
        """The loss of small scales of the states in hand."""
        if self._compared is None:
            return None
        return SmallScalesTensors(self._compared, self._new, self._samples * self._wide)

    # -- forward -----------------------------------------------------------------------------------

    def _forward(self) -> tuple[Held, _SavedApplication]:
        model, new, apply = self._model, self._new, self._products.forward
        inputs = self._sizes.inputs * self._samples * self._narrow
        casts: Held | None = None
        if self._narrow != self._wide:  # static fields serve all samples
            casts = new(inputs - self._sizes.static * (self._samples - 1) * self._narrow)
        joined = new(inputs)
        patches = new(inputs)
        del joined
        x, encoder = apply([linear(model.encoder)], patches, self._narrow)
        del patches
        ring: SavedMaps | None = None
        if self._ring is not None:
            came = new(2 * self._ring.edge * self._samples * self._narrow, "exchange")
            widened = new(self._ring.widened * self._samples * self._narrow)
            del came
            points = new(self._ring.points * self._samples * self._narrow)
            del widened
            of_ring, ring = apply([self._ring.layer], points, self._narrow)
            del points
            x = new(x.num_bytes)
            del of_ring
        del casts
        encoded = x
        blocks: list[list[SavedMixing] | Held] = []
        for block in [*model.blocks] * self._kind.latent:
            given = x
            x, of_block = self._blocks.block(mixings(block), x)
            blocks.append(given if self._by_block else of_block)
            del given, of_block
        normed, norm = self._blocks.norm(norm_of(model.decoder.norm), x)
        both = new(2 * x.num_bytes)
        del normed, x, encoded
        values, decoder = apply([linear(model.decoder.linear)], both, self._narrow)
        del both
        made = [values]
        if self._narrow != self._wide:
            made.append(new(self._state))
        fields = new(self._state)
        del values, made
        smoothing: list[Held] = []
        if (smooth := self._smooth) is not None:
            fields, smoothing = smooth.forward()
        point_noise: Held | None = None
        if model.point_noise is not None:
            point_noise = new(self._sizes.points * self._samples * self._wide)
            fields = new(self._state)
        forecast, head = self._head(fields)
        del fields
        small = self._small_scales
        begun = [] if small is None else small.begin()
        errors = [self._compare()]
        if small is not None:
            differences = small.differences(begun)
            errors.append(self._compare())
            del differences, begun
        return forecast, _SavedApplication(
            encoder, ring, blocks, norm, decoder, smoothing, point_noise, head, errors
        )

    def _compare(self) -> Held:
        """What is kept of errors that were compared."""
        error = self._new(self._state)
        # Beside what is made of errors, the members that others of a pool have made.
        num_costs = _COST_TENSORS[self._kind.error] + self._kind.pool - 1
        costs = [self._new(self._state) for _ in range(num_costs)]
        del costs
        return error

    def _head(self, fields: Held) -> tuple[Held, tuple[SavedNorm, SavedNorm, SavedMaps] | None]:
        head = self._model.head
        if not isinstance(head, Blend):
            sums = self._new(self._prognostic) if self._prognostic < self._state else None
            forecast = self._new(self._state)
            del sums
            return forecast, None
        points = self._new(self._state)
        normed, first = self._blocks.norm(norm_of(head.decoded_norm), points)
        both = self._new(self._state + self._prognostic)
        del normed, points
        normed, second = self._blocks.norm(norm_of(head.norm), both)
        del both
        forecast, maps = self._products.forward([linear(head.linear)], normed, self._wide)
        return forecast, (first, second, maps)

    # -- backward ----------------------------------------------------------------------------------

    def _backward(
        self, saved: _SavedApplication, later: list[Held], *, is_first: bool
    ) -> list[Held]:
        """From the gradient that a later application has of the forecast to that of its state."""
        new, model = self._new, self._model
        gradient = self._loss_back(saved.errors, later)
        state_gradients: list[Held] = []
        if saved.head is None:
            if not is_first:
                state_gradients.append(gradient)
            decoded = new(self._state)
        else:
            decoded, of_state = self._head_back(saved.head, gradient, is_first=is_first)
            state_gradients += of_state
            del of_state
        del gradient
        if saved.point_noise is not None:
            products = new(self._state)
            saved.point_noise = None
            del products
        if (smooth := self._smooth) is not None:
            made = [decoded]
            del decoded
            decoded, of_state, of_bias = smooth.backward(made, saved.smoothing, is_first=is_first)
            self._gradients.give_small(of_bias, is_complete=is_first)
            del of_bias
            if of_state:  # the sum with what goes past the kernels
                state_gradients = [new(self._prognostic)]
            del of_state
        values = new(self._state)
        del decoded
        if self._narrow != self._wide:
            values = new(self._narrowed(self._state))
        both = self._maps_back(linear(model.decoder.linear), values, saved.decoder, self._narrow)
        del values
        assert both is not None
        dx = self._blocks.norm_back(norm_of(model.decoder.norm), both.num_bytes // 2, saved.norm)
        for block in [*reversed(model.blocks)] * self._kind.latent:
            of_block = saved.blocks.pop()
            if isinstance(of_block, Held):
                self._products.weights.is_again = True
                # Which ends when everything that is saved is there.
                of_block = self._blocks.block(mixings(block), of_block, ends_early=True)[1]
                self._products.weights.is_again = False
            for mixing in reversed(mixings(block)):
                dx = self._blocks.mixing_back(mixing, dx, of_block.pop())
        dx = new(dx.num_bytes)  # with the part of the decoder, which was held until now
        del both
        of_edges = self._ring_back(dx, saved.ring, is_first=is_first)
        patches = self._maps_back(
            linear(model.encoder), dx, saved.encoder, self._narrow, input_gradient=not is_first
        )
        del dx
        if patches is None:
            return []
        fields = [new(patches.num_bytes), *of_edges]
        del patches, of_edges
        if self._narrow != self._wide:
            if self._ring is not None:
                fields.append(new(self._narrowed(self._prognostic)))
            fields = [new(self._prognostic)]
        return state_gradients + fields

    def _ring_back(self, dx: Held, saved: SavedMaps | None, *, is_first: bool) -> list[Held]:
        """The gradient of the state that a ring was made of, where it is wanted."""
        if self._ring is None:
            return []
        assert saved is not None
        points = self._maps_back(
            self._ring.layer, dx, saved, self._narrow, input_gradient=not is_first
        )
        if points is None:
            return []
        widened = self._new(self._ring.widened * self._samples * self._narrow)
        del points
        edges = self._new(4 * self._ring.edge * self._samples * self._narrow, "exchange")
        gradient = self._new(self._narrowed(self._prognostic))
        del widened, edges
        return [gradient]

    def _loss_back(self, errors: list[Held], later: list[Held]) -> Held:
        beside: list[Held] = []
        if (small := self._small_scales) is not None:
            beside.append(small.backward([self._compare_back(errors)]))
        gradient = self._compare_back(errors)
        while later or beside:
            (later or beside).pop()
            gradient = self._new(self._state)
        return gradient

    def _compare_back(self, errors: list[Held]) -> Held:
        """The gradient of what was compared last, of which nothing is kept then."""
        new, state = self._new, self._state
        mean = new(state)
        weighted = new(state)
        del mean
        made = [new(state) for _ in range(_SLOPE_TENSORS[self._kind.error])]
        gradient = new(state)
        del made, weighted
        errors.pop()
        return gradient

    def _head_back(
        self, saved: tuple[SavedNorm, SavedNorm, SavedMaps], gradient: Held, *, is_first: bool
    ) -> tuple[Held, list[Held]]:
        head = self._model.head
        assert isinstance(head, Blend)
        first, second, maps = saved
        made = self._maps_back(linear(head.linear), gradient, maps, self._wide)
        assert made is not None
        both = self._blocks.norm_back(norm_of(head.norm), made.num_bytes, second)
        del made
        points = self._blocks.norm_back(norm_of(head.decoded_norm), self._state, first)
        return points, [] if is_first else [both]

    def _maps_back(
        self,
        layer: Linear,
        dy: Held,
        saved: SavedMaps,
        element_bytes: int,
        *,
        input_gradient: bool = True,
    ) -> Held | None:
        return self._products.backward(
            [layer], dy, saved, element_bytes, input_gradient=input_gradient
        )

    def _narrowed(self, num_bytes: int) -> int:
        return num_bytes // self._wide * self._narrow
