"""WeatherMixer in float64 NumPy, from its description, with explicit loops over patches."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_erf = np.vectorize(math.erf)


def gelu(x: Array) -> Array:
    return 0.5 * x * (1.0 + _erf(x / math.sqrt(2.0)))


def layer_norm(x: Array, weights: Mapping[str, Array], name: str) -> Array:
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    normal = (x - mean) / np.sqrt(variance + 1e-5)
    return normal * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def over_channels(x: Array, weights: Mapping[str, Array], name: str) -> Array:
    return np.einsum("oc,...c->...o", weights[f"{name}.weight"], x) + weights[f"{name}.bias"]


def over_tokens(x: Array, weights: Mapping[str, Array], name: str) -> Array:
    product = np.einsum("on,nc->oc", weights[f"{name}.weight"], x)
    return product + weights[f"{name}.bias"][:, None]


def patches(fields: Array, patch: tuple[int, int]) -> Array:
    """``(channel, latitude, longitude)`` → ``(tokens, features)``: longitude by longitude."""
    tokens = []
    for column in range(fields.shape[2] // patch[1]):
        for row in range(fields.shape[1] // patch[0]):
            piece = fields[
                :,
                row * patch[0] : (row + 1) * patch[0],
                column * patch[1] : (column + 1) * patch[1],
            ]
            tokens.append(piece.ravel())
    return np.array(tokens)


def rings(state: Array, patch: tuple[int, int], overlap: int) -> Array:
    """``(channel, latitude, longitude)`` → ``(tokens, features)``: the points around each patch.

    Point by point: longitudes close to a circle, and beyond the latitudes there is nothing.
    """

    def thirds(size: int) -> list[range]:
        return [range(-overlap, 0), range(size), range(size, size + overlap)]

    def value(channel: int, latitude: int, longitude: int) -> float:
        if not 0 <= latitude < state.shape[1]:
            return 0.0
        return float(state[channel, latitude, longitude % state.shape[2]])

    def ring(top: int, left: int) -> list[float]:
        return [
            value(channel, top + down, left + right)
            for channel in range(state.shape[0])
            for number, rows in enumerate(thirds(patch[0]))
            for other, columns in enumerate(thirds(patch[1]))
            if (number, other) != (1, 1)
            for down in rows
            for right in columns
        ]

    lefts, tops = (range(0, state.shape[dim], patch[dim - 1]) for dim in (2, 1))
    return np.array([ring(top, left) for left in lefts for top in tops])


def fields_of(tokens: Array, patch: tuple[int, int], shape: tuple[int, int, int]) -> Array:
    fields = np.empty(shape)
    index = 0
    for column in range(shape[2] // patch[1]):
        for row in range(shape[1] // patch[0]):
            fields[
                :,
                row * patch[0] : (row + 1) * patch[0],
                column * patch[1] : (column + 1) * patch[1],
            ] = tokens[index].reshape(shape[0], *patch)
            index += 1
    return fields


def smoothed(fields: Array, kernel: Array) -> Array:
    """Point by point: longitudes close to a circle, and the outermost latitudes go on."""
    width, (channels, latitudes, longitudes) = kernel.shape[-1] // 2, fields.shape
    steps = range(-width, width + 1)
    return np.array(
        [
            [
                [
                    sum(
                        kernel[channel, 0, width + down, width + right]
                        * fields[
                            channel,
                            min(max(row + down, 0), latitudes - 1),
                            (column + right) % longitudes,
                        ]
                        for down in steps
                        for right in steps
                    )
                    for column in range(longitudes)
                ]
                for row in range(latitudes)
            ]
            for channel in range(channels)
        ]
    )


def diffused(fields: Array, fraction: Array, width: int) -> Array:
    """What fields lose, by zonal wavenumber; ``fraction (channel, latitude, 1)``."""
    longitudes = fields.shape[-1]
    limit = math.comb(2 * width, width) / 4**width  # at which the smallest scale is lost whole
    waves = np.sin(np.pi * np.arange(longitudes // 2 + 1) / longitudes) ** (2 * width) / limit
    share = (limit - np.abs(limit - np.abs(fraction))) * waves
    return np.fft.irfft(share * np.fft.rfft(fields), n=longitudes)


def modulated(
    y: Array,
    noise: Array,
    local_noise: Array | None,
    weights: Mapping[str, Array],
    name: str,
) -> Array:
    """Tokens ``(token, channel)``, each scaled and shifted by its numbers, those of all first."""
    scales, shifts = weights[f"{name}.scale"], weights[f"{name}.shift"]
    result = np.empty_like(y)
    for token, values in enumerate(y):
        numbers = list(noise)
        if local_noise is not None:
            column, row = divmod(token, local_noise.shape[1])
            numbers += list(local_noise[column, row])
        scale = sum(z * each for z, each in zip(numbers, scales, strict=True))
        shift = sum(z * each for z, each in zip(numbers, shifts, strict=True))
        result[token] = values * (1.0 + scale) + shift
    return result


def next_state(
    state: Array,
    static: Array,
    weights: Mapping[str, Array],
    *,
    patch: tuple[int, int],
    blocks: int,
    increment_scale: Array | None,
    applications: int = 1,
    diagnostic: int = 0,
    noise: Array | None = None,
    local_noise: Array | None = None,
    point_noise: Array | None = None,
    overlap: int = 0,
    smoothing: int = 0,
) -> Array:
    """The next normalised state ``(channel, latitude, longitude)`` of one sample.

    So many ``diagnostic`` channels come after those of the state. ``noise`` are numbers by which
    the norms of the blocks are scaled and shifted, and ``local_noise (longitude patch, latitude
    patch, number)`` further ones of each token; ``point_noise (latitude, longitude)`` are those
    that are smoothed and added to what is decoded, each channel's as its amplitude says. With
    ``overlap`` the encoder takes the ring of so many points around each patch too, and with
    ``smoothing`` kernels of so many points on each side smooth what is decoded, and others what of
    the state is added to it, which loses some of its small scales too.

    With ``increment_scale (channel,)`` the decoded values are increments; without it they pass
    through the published blend.
    """
    encoded = over_channels(patches(np.concatenate([state, static]), patch), weights, "encoder")
    if overlap:
        around = rings(state, patch, overlap)
        encoded = encoded + np.einsum("oc,...c->...o", weights["ring.weight"], around)
    x = encoded
    for _ in range(applications):
        for block in range(blocks):
            for part, mix in enumerate((over_tokens, over_channels)):
                name = f"blocks.{block}.{part}"
                y = layer_norm(x, weights, f"{name}.norm")
                if noise is not None:
                    y = modulated(y, noise, local_noise, weights, f"{name}.modulation")
                hidden = gelu(mix(y, weights, f"{name}.expand"))
                x = x + mix(hidden, weights, f"{name}.contract")
    joined = np.concatenate([layer_norm(x, weights, "decoder.norm"), encoded], axis=-1)
    prognostic, *grid = state.shape
    shape = (prognostic + diagnostic, grid[0], grid[1])
    decoded = fields_of(over_channels(joined, weights, "decoder.linear"), patch, shape)
    if smoothing:
        decoded = smoothed(decoded, weights["smoothing.kernel"])
        decoded[: len(state)] += smoothed(state, weights["smoothing.state_kernel"])
        unit = 1.0 if increment_scale is None else increment_scale[:, None, None]
        lost = diffused(state, weights["smoothing.diffusion"], smoothing)
        decoded = decoded + weights["smoothing.bias"]
        decoded[: len(state)] -= lost / unit
    if point_noise is not None:
        binomial = np.outer([1.0, 2.0, 1.0], [1.0, 2.0, 1.0])[None, None] / 6.0
        decoded = decoded + weights["point_noise.amplitude"] * smoothed(point_noise[None], binomial)
    if increment_scale is not None:
        later = state + increment_scale[:, None, None] * decoded[:prognostic]
        return np.concatenate([later, decoded[prognostic:]])
    points = np.moveaxis(decoded, 0, -1)
    points = layer_norm(points, weights, "head.decoded_norm")
    points = np.concatenate([points, np.moveaxis(state, 0, -1)], axis=-1)
    blended = over_channels(layer_norm(points, weights, "head.norm"), weights, "head.linear")
    return np.moveaxis(blended, -1, 0)
