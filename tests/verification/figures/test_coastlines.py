import numpy as np

from weathermixer.verification.figures.coastlines import coastlines


def test_every_line_lies_on_the_map_and_crosses_no_more_than_a_little_of_it() -> None:
    for line in coastlines():
        longitude, latitude = line.T
        assert len(line) > 1
        assert np.abs(longitude).max() <= 180
        assert np.abs(latitude).max() <= 90
        assert np.abs(np.diff(longitude)).max() < 10


def test_the_date_line_is_crossed_but_not_drawn() -> None:
    at_date_line = [np.abs(line[:, 0]) == 180 for line in coastlines()]
    assert sum(on_it.any() for on_it in at_date_line) >= 4
    assert not any(np.any(on_it[:-1] & on_it[1:]) for on_it in at_date_line)


def test_well_known_capes_are_where_they_should_be() -> None:
    points = np.concatenate(coastlines())
    for longitude, latitude in [(18.5, -34.1), (-67.2, -55.7), (-5.7, 36.0), (-9.5, 38.8)]:
        assert np.abs(points - [longitude, latitude]).max(axis=1).min() < 1.5
