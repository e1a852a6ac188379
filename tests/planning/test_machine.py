"""Machine files: what is read back, what no machine can be, and which part is taken."""

from pathlib import Path

import pytest
import yaml

from weathermixer.errors import UserError
from weathermixer.planning.machine import Machine
from weathermixer.planning.machine_files import (
    find_machine,
    read_machine,
    shipped_machines,
    write_machine,
)

DATASHEETS = {
    # bfloat16 peak, gigabytes, ranks per node
    "a100-40gb": (312e12, 40, 4),
    "a100-40gb-fitted": (312e12, 40, 4),
    "h100": (989e12, 80, 8),
    "h200": (989e12, 141, 8),
    "gh200": (989e12, 96, 4),
    "mi250x": (191.5e12, 64, 8),
}


def test_the_machines_of_the_package_are_those_of_their_datasheets() -> None:
    assert set(shipped_machines()) == {*DATASHEETS, "processors"}
    for name, (peak, gigabytes, ranks) in DATASHEETS.items():
        machine = find_machine(name)
        rates = machine.computing_of(ranks=1).product_rates("bfloat16")
        assert machine.name == name and machine.ranks_per_node == ranks
        assert rates.peak == peak and 0.5 * peak < rates.at(1e9) < peak
        assert gigabytes * 1e9 <= machine.memory_bytes < 1.08 * gigabytes * 1e9
        assert machine.between_nodes is not None and machine.power is not None


def test_a_machine_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    machine = find_machine("gh200")
    write_machine(machine, tmp_path / "machine.yaml")
    assert read_machine(tmp_path / "machine.yaml") == machine


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 7}, "version: 7 is none that this program reads"),
        ({"version": None}, "version: null"),
        ({"memory_bytes": -1}, "memory_bytes: -1 is impossible; give more than 0"),
        ({"ranks_per_node": 0}, "ranks_per_node: 0 is impossible"),
        ({"wings": 2}, "wings: there is no such key"),
        (
            {"storage": {"rank_bytes_per_second": 2, "node_bytes_per_second": 1, "source": "x"}},
            "storage: lets a node read 1 bytes per second, less than one of its ranks (2)",
        ),
    ],
)
def test_a_file_that_no_machine_can_be_is_refused_with_key_and_value(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(yaml.safe_dump(_values() | change), encoding="utf-8")
    with pytest.raises(UserError) as refused:
        read_machine(path)
    assert str(path) in str(refused.value) and words in str(refused.value)


def test_rates_above_the_peak_and_sizes_out_of_order_are_refused(tmp_path: Path) -> None:
    values = _values()
    rates = values["computing"][0]["products"]["bfloat16"]
    rates["rates"][-1] = 1e18
    values["within_node"]["messages"]["sizes"][0] = 1e9
    path = tmp_path / "odd.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(UserError) as refused:
        read_machine(path)
    assert "above its peak of 3.12e+14" in str(refused.value)
    assert "within_node.messages: lists sizes that do not ascend" in str(refused.value)


def test_an_unknown_name_lists_the_machines_there_are() -> None:
    names = "a100-40gb, a100-40gb-fitted, gh200, h100, h200, mi250x, processors"
    with pytest.raises(UserError, match=names):
        find_machine("h1000")


def test_a_link_that_a_machine_lacks_is_named() -> None:
    machine = find_machine("h100").model_copy(update={"between_nodes": None})
    with pytest.raises(UserError, match="h100 has one node of 8 ranks"):
        machine.link(is_between_nodes=True)


def test_what_was_measured_with_as_many_ranks_and_threads_is_taken() -> None:
    machine = find_machine("h100")
    (device,) = machine.computing
    parts = [
        device.model_copy(update={"ranks": ranks, "threads": threads})
        for ranks, threads in ((1, 1), (1, 2), (2, 1), (4, 1))
    ]
    shared = machine.model_copy(update={"computing": tuple(parts), "ranks_per_node": 4})
    for part, (ranks, threads) in zip(parts, ((1, 1), (1, 2), (2, 1), (4, 1)), strict=True):
        assert shared.computing_of(ranks=ranks, threads=threads) is part
    # Ranks beyond a node do not compute on it; the threads are as many as were measured.
    assert shared.computing_of(ranks=64, threads=1) is parts[3]
    assert shared.computing_of(ranks=1) is parts[1]


def _values() -> dict:
    values: dict = find_machine("a100-40gb").model_dump(mode="json")
    Machine.model_validate(values)
    return values
