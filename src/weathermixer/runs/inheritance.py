"""What a network takes over from the weights of another run: whole, in part, or not at all.

Fields are matched by name, never by their place: the columns of the encoder and the rows of the
decoder that belong to a field which both networks know go where the field is now. Each rank reads
the elements that it needs, and no others.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from weathermixer.config import Config
from weathermixer.data.channels import channels_of, names, predicted_channels
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.data.forcings import forcing_fields
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Block
from weathermixer.jigsaw.pieces import LocalParameter, local_parameters
from weathermixer.model.architecture import Architecture, architecture_of
from weathermixer.model.mixer import WeatherMixer
from weathermixer.runs import checkpoint
from weathermixer.runs.exported_run import open_trained
from weathermixer.runs.run import Run
from weathermixer.runs.shards import Shard


@dataclass(frozen=True)
class Source:
    """The run, and the checkpoint of it, whose weights another one begins with."""

    run: Run
    checkpoint: Path

    @classmethod
    def open(cls, path: Path) -> Source:
        """The newest checkpoint of a run, or an export; UserError where there is none."""
        run = open_trained(path).read()
        return cls(run, run.require_checkpoint())


@dataclass(frozen=True)
class _Labels:
    """What a dimension of a parameter is made of: a field each, with the grid points of a patch."""

    fields: tuple[Hashable, ...]
    patch: tuple[int, int] = (1, 1)

    @property
    def unit(self) -> int:
        """Elements of a field."""
        return self.patch[0] * self.patch[1]


_Dimensions = tuple[_Labels | None, ...]

# What new parameters begin with.
_INITIAL, _OF_ZERO, _OF_REST = "initial weights", "weights of zero", "weights that smooth nothing"


def inherit_statistics(own: Normalisation, config: Config, source: Run) -> Normalisation:
    """A normalisation with the statistics of another run in the channels that both know.

    The weights that are taken over were made for those. Changes over a step are the other run's
    where its step is as long, and where neither run only predicts the channel.
    """
    theirs = source.normalisation
    mean, std, step_std = own.mean.copy(), own.std.copy(), own.step_std.copy()
    is_same_step = config.data.step_hours == source.config.data.step_hours
    prognostic = set(_prognostic(config)) & set(_prognostic(source.config))
    for place, name in enumerate(own.channels):
        if name not in theirs.channels:
            continue
        there = theirs.channels.index(name)
        mean[place], std[place] = theirs.mean[there], theirs.std[there]
        if name not in prognostic:
            if name not in _prognostic(config):
                step_std[place] = std[place]
        elif is_same_step:
            step_std[place] = theirs.step_std[there]
    return replace(own, mean=mean, std=std, step_std=step_std)


def inherit_weights(model: WeatherMixer, config: Config, source: Source) -> list[str]:
    """Fill a rank's part of a network, with initial weights, from another run; what was taken over.

    All ranks call this. The weights are the other run's average, where it has one, else the last.
    What both networks have in common, by name and size, is taken over whole; of encoder, decoder
    and head, what belongs to fields that both know. Columns of the encoder for new fields are zero,
    as is all that belongs to new points around patches, and new kernels smooth nothing, so that the
    network begins with what it knows. Where patches have a whole multiple of the
    other's grid points, each point takes its part of the weight of the point that it lies in.

    Raises UserError where nothing can be taken over, and where the checkpoint is damaged.
    """
    theirs = architecture_of(
        source.run.config.data, source.run.config.model, source.run.normalisation.grid
    )
    there = {
        name: tuple(parameter.shape)
        for name, parameter in WeatherMixer(theirs, device="meta").named_parameters()
    }
    other = _other_meaning(theirs, model.architecture)
    taken, whole, partly, new = [], 0, [], []
    for local in local_parameters(model):
        now = _dimensions(local.name, config, model.architecture)
        before = _dimensions(local.name, source.run.config, theirs)
        matched = local.name in there and not any(part in local.name for part in other)
        if not matched or not _fits(local.piece.block.shape, now, there[local.name], before):
            new.append(local.name)
            continue
        taken.append(_Taken(local, now, before, there[local.name]))
        if now == before:
            whole += 1
        else:
            partly.append(local.name)
    if not taken:
        raise UserError(
            f"{source.checkpoint} has nothing that this network could take over: leave out --from, "
            "or give it the sizes of that network"
        )
    # As a forecast of the other run takes them.
    kind = source.run.kind_of(source.run.weights_of(source.checkpoint, None))
    checkpoint.load(
        source.checkpoint,
        {f"{kind}.{each.local.name}": each.shard for each in taken if each.shard.tensor.numel()},
        leaves_others=True,
    )
    for each in taken:
        each.put()
    for name in new:
        beginning = _beginning(name, new)
        if beginning == _OF_ZERO:
            nn.init.zeros_(model.get_parameter(name))
        elif beginning == _OF_REST:
            assert model.smoothing is not None
            model.smoothing.rest()
    return _sentences(source, model, config, whole, partly, new)


class _Taken:
    """What a rank takes over of a parameter: read into ``shard``, then put into its place."""

    def __init__(
        self, local: LocalParameter, now: _Dimensions, before: _Dimensions, shape: tuple[int, ...]
    ) -> None:
        self.local, self._scale = local, 1.0
        self._is_whole = now == before
        # For each dimension of fields: the elements that are known, and their places in the shard.
        self._moves: dict[int, tuple[NDArray[np.intp], NDArray[np.intp]]] = {}
        ranges = []
        for dim, (own, here, there) in enumerate(
            zip(local.piece.block.ranges, now, before, strict=True)
        ):
            if here is None or there is None:
                ranges.append(own)
                continue
            former = _former_elements(own, here, there)
            known = np.flatnonzero(former >= 0)
            wanted, places = np.unique(former[known], return_inverse=True)
            self._moves[dim] = known, places
            ranges.append(_as_ranges(wanted))
            if local.name == "encoder.weight":
                self._scale = there.unit / here.unit
        block = Block(shape, tuple(ranges))
        # What is taken over whole is read into its place.
        parameter = local.parameter.detach()
        target = parameter if self._is_whole else parameter.new_zeros(block.local_shape)
        self.shard = Shard(target, block)

    def put(self) -> None:
        """Put what was read into the parameter."""
        if self._is_whole:
            return
        values, target = self.shard.tensor * self._scale, self.local.parameter.detach()
        if self.local.name in ("encoder.weight", "ring.weight"):
            target.zero_()  # of new fields, nothing to begin with
        targets = {}
        for dim, (known, places) in self._moves.items():
            targets[dim] = torch.from_numpy(known).to(target.device)
            values = values.index_select(dim, torch.from_numpy(places).to(target.device))
        if len(targets) == 1:
            ((dim, index),) = targets.items()
            target.index_copy_(dim, index, values)
        else:
            target[targets[0][:, None], targets[1]] = values


def _former_elements(own: Sequence[range], here: _Labels, there: _Labels) -> NDArray[np.int64]:
    """Where the elements of some ranges were in the other network; -1 for those of new fields.

    Where patches are finer, an element is the point of the coarse patch that it lies in.
    """
    elements = np.concatenate([np.arange(part.start, part.stop) for part in own])
    field, point = np.divmod(elements, here.unit)
    row, column = np.divmod(point, here.patch[1])
    finer_rows, finer_columns = here.patch[0] // there.patch[0], here.patch[1] // there.patch[1]
    places = {name: place for place, name in enumerate(there.fields)}
    former = np.array([places.get(name, -1) for name in here.fields], dtype=np.int64)[field]
    point = row // finer_rows * there.patch[1] + column // finer_columns
    return np.where(former >= 0, former * there.unit + point, -1)


def _as_ranges(elements: NDArray[np.int64]) -> tuple[range, ...]:
    """Increasing elements as few ranges."""
    runs = np.split(elements, np.flatnonzero(np.diff(elements) != 1) + 1)
    return tuple(range(int(run[0]), int(run[-1]) + 1) for run in runs if len(run))


def _dimensions(name: str, config: Config, architecture: Architecture) -> _Dimensions:
    """What the dimensions of a parameter are made of; None where that is not fields."""
    data, patch = config.data, architecture.patch
    prognostic = _prognostic(config)
    diagnostic = (("only predicted", name) for name in names(predicted_channels(data)))
    predicted: tuple[Hashable, ...] = (*prognostic, *list(diagnostic)[len(prognostic) :])
    inputs = [(channel, back) for back in range(data.input_times) for channel in prognostic]
    given: tuple[Hashable, ...] = (*inputs, *data.static, *forcing_fields(data.forcings))
    joined = _Labels((*(("decoded", each) for each in predicted), *prognostic))
    layer, _, kind = name.rpartition(".")
    match layer, kind:
        case "encoder", "weight":
            return None, _Labels(given, patch)
        case "ring", "weight":
            return None, _Labels(prognostic, (1, architecture.ring_features.unit))
        case "smoothing", "kernel":
            return _Labels(predicted), None, None, None
        case "smoothing", "state_kernel":
            return _Labels(prognostic), None, None, None
        case "smoothing", "diffusion":
            return _Labels(prognostic), None, None
        case "smoothing", "bias":
            return _Labels(predicted), None, None
        case "point_noise", "amplitude":
            return _Labels(predicted), None, None
        case "decoder.linear", "weight":
            return _Labels(predicted, patch), None
        case "decoder.linear", "bias":
            return (_Labels(predicted, patch),)
        case "head.linear", "weight":
            return _Labels(predicted), joined
        case "head.linear" | "head.decoded_norm", _:
            return (_Labels(predicted),)
        case "head.norm", _:
            return (joined,)
    is_matrix = (kind == "weight" and "norm" not in layer) or layer.endswith(".modulation")
    return (None, None) if is_matrix else (None,)


def _fits(
    now_shape: Sequence[int], now: _Dimensions, before_shape: Sequence[int], before: _Dimensions
) -> bool:
    """Whether a parameter can be taken over, at least in part."""
    for size, here, former, there in zip(now_shape, now, before_shape, before, strict=True):
        if here is None or there is None:
            if size != former:
                return False
        elif not set(here.fields) & set(there.fields) or any(
            new % old for new, old in zip(here.patch, there.patch, strict=True)
        ):
            return False
    return True


def _prognostic(config: Config) -> tuple[str, ...]:
    return names(channels_of(config.data.variables, config.data.levels))


def _other_meaning(theirs: Architecture, ours: Architecture) -> tuple[str, ...]:
    """Parts of the names of parameters that mean another thing, even where their sizes agree."""
    tokens = (".0.expand.", ".0.contract.") if _token_grid(theirs) != _token_grid(ours) else ()
    decoded: tuple[str, ...] = ()
    if theirs.prediction != ours.prediction:
        decoded = ("decoder.linear.", "smoothing.", "point_noise.", "head.")
    is_same_ring = (theirs.patch, theirs.overlap) == (ours.patch, ours.overlap)
    ring = () if is_same_ring else ("ring.",)
    # Rows for what all tokens share come first.
    noise = () if theirs.noise == ours.noise else (".modulation.",)
    return (*tokens, *decoded, *ring, *noise)


def _token_grid(architecture: Architecture) -> tuple[int, int]:
    return (
        architecture.grid[0] // architecture.patch[0],
        architecture.grid[1] // architecture.patch[1],
    )


def _sentences(
    source: Source,
    model: WeatherMixer,
    config: Config,
    whole: int,
    partly: Sequence[str],
    new: Sequence[str],
) -> list[str]:
    total = whole + len(partly) + len(new)
    found = [
        f"{whole} of {total} tensors are taken over whole from {source.checkpoint}; the optimizer "
        "begins anew"
    ]
    if partly:
        fields: dict[str, None] = {}
        theirs = architecture_of(
            source.run.config.data, source.run.config.model, source.run.normalisation.grid
        )
        for name in partly:
            pairs = zip(
                _dimensions(name, config, model.architecture),
                _dimensions(name, source.run.config, theirs),
                strict=True,
            )
            for here, there in pairs:
                if here is not None and there is not None:
                    unknown = (field for field in here.fields if field not in there.fields)
                    fields |= dict.fromkeys(map(_field_name, unknown))
        what = f", where new are {', '.join(fields)}" if fields else ""
        found.append(f"taken over in part, field by field: {', '.join(partly)}{what}")
    for what in (_INITIAL, _OF_ZERO, _OF_REST):
        names_of = [name for name in new if _beginning(name, new) == what]
        if names_of:
            found.append(f"new, with {what}: {', '.join(names_of)}")
    return found


def _beginning(name: str, new: Sequence[str]) -> str:
    """What a new parameter begins with: nothing that changes what was taken over beside it."""
    if name == "ring.weight" and "encoder.weight" not in new:
        return _OF_ZERO
    if name in ("smoothing.state_kernel", "smoothing.diffusion", "smoothing.bias"):
        return _OF_ZERO
    if name == "smoothing.kernel" and "decoder.linear.weight" not in new:
        return _OF_REST
    return _INITIAL


def _field_name(field: Hashable) -> str:
    match field:
        case ("decoded", ("only predicted", str(name))):
            return name
        case ("decoded" | "only predicted", str(name)):
            return name
        case str(name), int(back):
            return f"{name} {back} step{'s' * (back > 1)} before" if back else name
    return str(field)
