"""The tensors of a step in plain PyTorch, in the order in which they come and go, as sizes.

As PyTorch's own layers make them, on one rank or cut as Megatron-LM cuts them: what autograd keeps
for the backward pass, and what is held while something else is made. How weights and their
gradients are held is the scheme's: :class:`WeightMemory`.
"""

from __future__ import annotations

from dataclasses import dataclass

from weathermixer.planning.ledger import Held, Ledger
from weathermixer.planning.schemes.plain_network import PlainNetwork


@dataclass(frozen=True)
class WeightMemory:
    """Bytes that a scheme holds of weights beside the activations.

    ``weights``, ``averages``, the optimizer's and one of weights, and ``buckets`` of gradients are
    there all the time.
    ``gathered_block`` and ``gathered_edges`` come from other ranks to be used, of a block and of
    encoder and head. Of the gradient of a weight, of which autograd adds up all uses first,
    ``kept_share`` stays: all of it, this rank's part, or nothing where it goes into a bucket.
    """

    weights: float
    averages: float
    buckets: float = 0.0
    gathered_block: float = 0.0
    gathered_edges: float = 0.0
    kept_share: float = 1.0


def step_memory_bytes(network: PlainNetwork, weights: WeightMemory) -> int:
    """The most bytes that a rank holds in a step of the training's longest rollout."""
    ledger = Ledger()
    PlainTensors(ledger, network, weights).walk(network.kind.longest_rollout)
    return ledger.peak


@dataclass
class SavedMixing:
    """What autograd keeps of ``x + contract(gelu(expand(norm(x))))``, in the order it is made.

    ``hidden`` are the bytes between the maps, ``weight`` those of one map's gradient.
    """

    hidden: int
    weight: int
    kept: list[Held]


@dataclass
class _SavedApplication:
    encoder: list[Held]
    blocks: list[list[SavedMixing] | Held]
    head: list[Held]


class PlainTensors:
    """A step of ``network`` on a rank: what it holds is counted by the ``ledger``."""

    def __init__(self, ledger: Ledger, network: PlainNetwork, weights: WeightMemory) -> None:
        self._ledger, self._network, self._weights = ledger, network, weights
        a, samples, ranks = network.architecture, network.kind.samples, network.ranks
        self._whole_latent = a.tokens * a.channels * network.element_bytes * samples
        self._latent = self._whole_latent // ranks
        of_token = network.weight_bytes * samples * a.tokens // ranks
        self._state = of_token * a.predicted_features.size
        self._inputs = of_token * network.encoder_inputs() * network.element_bytes
        self._inputs //= network.weight_bytes
        # What of a state and beside it is read, once, whatever of it the encoder takes twice.
        self._read = of_token * a.input_features.size
        self._pending: dict[object, list[Held]] = {}
        self._gradients: list[Held] = []

    def walk(self, rollout: int) -> None:
        """Take the step, with so many applications of the network."""
        network, num_blocks = self._network, self._network.architecture.blocks
        weights = self._weights
        resident = [self._new(weights.weights + weights.averages + weights.buckets)]
        resident.append(self._new(weights.gathered_edges))
        resident.append(self._new(rollout * self._state + self._read))
        if network.element_bytes < network.weight_bytes:  # casts, which autocast keeps
            casts = num_blocks * network.rank_block_weights() * network.element_bytes
            resident.append(self._new(casts))
        saved: list[_SavedApplication] = []
        for _ in range(rollout):
            x, encoder = self._encode()
            blocks: list[list[SavedMixing] | Held] = []
            for _ in range(num_blocks):
                given = x
                x, kept = self.forward_block(x)
                blocks.append(given if network.kind.recompute == "blocks" else kept)
                del given, kept
            saved.append(_SavedApplication(encoder, blocks, self._decode(x)))
            del x, encoder, blocks
        later: list[Held] = []
        while saved:
            application, is_last = saved.pop(), len(saved) == 0
            dx = self._decode_back(application.head, later, is_last_use=is_last)
            while application.blocks:
                number, of_block = len(application.blocks), application.blocks.pop()
                dx = self.backward_block(number, of_block, dx, is_last_use=is_last)
                del of_block
            later = self._encode_back(application.encoder, is_last_use=is_last)
            del dx
        del resident

    # -- blocks ------------------------------------------------------------------------------------

    def forward_block(self, x: Held, *, ends_early: bool = False) -> tuple[Held, list[SavedMixing]]:
        """Mix tokens, then channels: what comes out, and what is kept.

        With ``ends_early``, the last map is not applied, for which everything is kept by then.
        """
        a, ranks, element = self._network.architecture, self._network.ranks, self._element
        gathered = self._new(self._weights.gathered_block)
        saved = []
        for over_tokens, size, width, rows in (
            (True, a.tokens, a.token_hidden, a.channels),
            (False, a.channels, a.channel_hidden, a.tokens),
        ):
            hidden = rows * width * element // ranks
            y = self._new(self._latent)
            if ranks > 1 or over_tokens:  # of all ranks, or turned: tokens are features
                y = self._new(self._whole_latent)
            kept = [x, y, self._new(hidden)]
            del y
            active = self._new(hidden)
            if a.dropout:
                kept.append(self._new(hidden // self._network.element_bytes))  # which are zeroed
                active = self._new(hidden)
            kept.append(active)
            del active
            if over_tokens or not ends_early:
                out = self._new(self._whole_latent)
                if ranks > 1:
                    out = self._new(self._latent)
                x = self._new(self._latent)
                del out
            weight = size * width * self._network.weight_bytes // ranks
            saved.append(SavedMixing(hidden, weight, kept))
            del kept
        del gathered
        return x, saved

    def backward_block(
        self, key: object, saved: list[SavedMixing] | Held, dy: Held, *, is_last_use: bool = True
    ) -> Held:
        """The gradient of the input of a block, which is known by its ``key``."""
        # While a block is passed, the weights of the one before it come.
        gathered = [self._new(self._weights.gathered_block) for _ in range(2)]
        if isinstance(saved, Held):
            saved = self.forward_block(saved, ends_early=True)[1]
        made: list[Held] = []
        while saved:
            dy = self._mixing_back(saved.pop(), dy, made, is_last_use=is_last_use)
        self._settle(key, made, is_last_use=is_last_use)
        del gathered
        return dy

    def _mixing_back(
        self, mixing: SavedMixing, dy: Held, made: list[Held], *, is_last_use: bool
    ) -> Held:
        kept, ranks = mixing.kept, self._network.ranks
        gathered = self._new(self._whole_latent) if ranks > 1 else dy
        gradient = self._new(mixing.hidden)
        self._make(mixing.weight, made, is_last_use=is_last_use)
        del gathered
        kept.pop()
        if self._network.architecture.dropout:
            gradient = self._new(mixing.hidden)
            kept.pop()
        gradient = self._new(mixing.hidden)
        kept.pop()
        dx = self._new(self._whole_latent)
        self._make(mixing.weight, made, is_last_use=is_last_use)
        del gradient
        kept.pop()
        if ranks > 1:
            dx = self._new(self._latent)
        dx = self._new(self._latent)
        kept.clear()
        return self._new(dx.num_bytes)  # with what goes past the maps

    # -- encoder, decoder and head -----------------------------------------------------------------

    def _encode(self) -> tuple[Held, list[Held]]:
        joined = self._new(self._inputs)
        patches = self._new(self._inputs)
        del joined
        return self._new(self._latent), [patches]

    def _decode(self, x: Held) -> list[Held]:
        """What is kept of decoder, head and loss, with the forecast."""
        normed = self._new(self._latent)
        both = self._new(2 * self._latent)
        del normed
        values = self._new(self._state)
        fields = self._new(self._state)
        del values
        smoothing = []
        if self._network.architecture.smoothing:
            smoothing.append(self._new(2 * self._state))
            fields = self._new(self._state)
        kept = [x, both]
        if self._network.architecture.prediction == "state":
            normed = self._new(self._state)
            points = self._new(2 * self._state)
            del normed
            kept += [fields, points, self._new(2 * self._state)]
        del fields
        forecast, error = self._new(self._state), self._new(self._state)
        return [*kept, *smoothing, forecast, error]

    def _decode_back(self, kept: list[Held], later: list[Held], *, is_last_use: bool) -> Held:
        """From the gradient that a later application has of the forecast to that of the latent."""
        gradient = [self._new(self._state) for _ in range(2)]
        kept.pop()
        later.clear()
        if self._network.architecture.prediction == "state":
            gradient += [self._new(2 * self._state) for _ in range(2)]
            kept[2:5] = []
        gradient = [self._new(self._state)]
        both = self._new(2 * self._latent)
        made = [self._new(self._network.head_weights() * self._network.weight_bytes)]
        self._settle("head", made, is_last_use=is_last_use)
        del gradient
        kept.clear()
        dx = self._new(self._latent)
        return self._new(dx.num_bytes + both.num_bytes // 2)  # the encoder's part waits for it

    def _encode_back(self, kept: list[Held], *, is_last_use: bool) -> list[Held]:
        made = [self._new(self._network.encoder_weights() * self._network.weight_bytes)]
        self._settle("encoder", made, is_last_use=is_last_use)
        kept.clear()
        return [] if is_last_use else [self._new(self._inputs), self._new(self._state)]

    # -- gradients of weights ----------------------------------------------------------------------

    def _make(self, num_bytes: int, made: list[Held], *, is_last_use: bool) -> None:
        """Make the gradient of a map's weight, which may go straight into a bucket."""
        gradient = self._new(num_bytes)
        if self._weights.kept_share or not is_last_use:
            made.append(gradient)

    def _settle(self, key: object, made: list[Held], *, is_last_use: bool) -> None:
        """Add what one use has made of a part's gradients to what others have, and keep it."""
        held = self._pending.setdefault(key, [])
        if not held:
            held += made
        made.clear()
        if not is_last_use:
            return
        del self._pending[key]
        share = self._weights.kept_share
        if 0.0 < share < 1.0:
            total = sum(each.num_bytes for each in held)
            sent = self._new(total)  # laid end to end
            held[:] = [self._new(total * share)]
            del sent
        if share:
            self._gradients += held

    @property
    def _element(self) -> int:
        return self._network.element_bytes * self._network.kind.samples

    def _new(self, num_bytes: float) -> Held:
        return self._ledger.new(round(num_bytes))
