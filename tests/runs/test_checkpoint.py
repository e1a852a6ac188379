from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.state_dict_loader import load as load_plainly

from support.disk import full_disk
from support.ranks import Pool
from weathermixer.errors import UserError
from weathermixer.jigsaw.fake import fake_mesh
from weathermixer.jigsaw.layout import Block, Dimension, Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.runs import checkpoint, checkpoint_index, saving
from weathermixer.runs.checkpoint_index import DamagedCheckpoint
from weathermixer.runs.shards import Shard, ShardSavePlanner, own_share


def _tensors(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "model.weight": torch.randn(40, 30, generator=generator),
        "model.bias": torch.randn(7, generator=generator, dtype=torch.float64),
        "model.half": torch.randn(5, generator=generator).bfloat16(),
        "progress.step": torch.tensor(12 + seed),
    }


def _empty() -> dict[str, Tensor]:
    return {name: torch.zeros_like(tensor) for name, tensor in _tensors().items()}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = checkpoint.checkpoint_path(tmp_path, 12)
    saving.save(path, _tensors())
    return path


def test_what_is_saved_comes_back_bit_for_bit(saved: Path) -> None:
    loaded = _empty()
    checkpoint.load(saved, loaded)
    for name, tensor in _tensors().items():
        assert torch.equal(loaded[name], tensor), name


def test_parameters_are_filled_in_place(saved: Path) -> None:
    parameter = torch.nn.Parameter(torch.zeros(40, 30))
    checkpoint.load(saved, {"model.weight": parameter, **_without("model.weight")})
    assert torch.equal(parameter.detach(), _tensors()["model.weight"])


def _without(name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in _empty().items() if key != name}


def test_a_group_of_tensors_loads_without_the_others(saved: Path) -> None:
    loaded = {name: tensor for name, tensor in _empty().items() if name.startswith("model.")}
    checkpoint.load(saved, loaded)
    assert torch.equal(loaded["model.bias"], _tensors()["model.bias"])


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_the_format_is_the_one_that_pytorch_reads(saved: Path) -> None:
    loaded = _empty()
    load_plainly(loaded, checkpoint_id=saved, no_dist=True)
    assert torch.equal(loaded["model.weight"], _tensors()["model.weight"])


def test_equal_tensors_make_equal_files(saved: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "step-00000012"
    saving.save(other, _tensors())
    assert {f.name: f.read_bytes() for f in saved.iterdir()} == {
        f.name: f.read_bytes() for f in other.iterdir()
    }


def test_another_shape_is_named_with_both(saved: Path) -> None:
    with pytest.raises(UserError, match=r"model\.weight has the shape \(40, 30\) .* \(3, 30\)"):
        checkpoint.load(saved, {**_empty(), "model.weight": torch.zeros(3, 30)})


def test_names_that_only_one_side_has_are_named(saved: Path) -> None:
    with pytest.raises(UserError, match=r"another network: it has no model\.more"):
        checkpoint.load(saved, {**_empty(), "model.more": torch.zeros(3)})
    with pytest.raises(UserError, match=r"another network: this one has no model\.bias"):
        checkpoint.load(saved, _without("model.bias"))


def _write_index(path: Path, metadata: Any) -> None:
    """Write an index, sealed as the program does it."""
    (path / ".metadata").write_bytes(pickle.dumps(metadata))
    checkpoint_index.write_seal(path)


class _Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, ran: Path, function: Any = Path.touch) -> None:
        self.call = (function, (ran,))

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("function", [Path.touch, os.mkdir, exec, eval, getattr, torch.load])
def test_an_index_that_would_run_something_is_refused(
    saved: Path, tmp_path: Path, function: Any
) -> None:
    ran = tmp_path / "ran"
    metadata = Metadata({}, planner_data=_Evil(ran, function))
    _write_index(saved, metadata)
    with pytest.raises(UserError, match=r"\.metadata is not .* has no place in it"):
        checkpoint.load(saved, _empty())
    assert not ran.exists()


def test_a_stored_tensor_that_would_run_something_is_refused(saved: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    index = pickle.loads((saved / ".metadata").read_bytes())
    place = next(iter(index.storage_data.values()))
    file = saved / place.relative_path
    torch.save(_Evil(ran), file)
    for part in index.storage_data.values():
        part.offset, part.length = 0, file.stat().st_size
    _write_index(saved, index)
    with pytest.raises(UserError, match="holds something other than tensors"):
        checkpoint.load(saved, _empty())
    assert not ran.exists()


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_named(saved: Path, name: str, share: float) -> None:
    file = saved / name
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(UserError, match=rf"{name} .*remove {saved} to go"):
        checkpoint.load(saved, _empty())


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "checkpoint.json"])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(UserError, match=f"{name} cannot be read .No such file"):
        checkpoint.load(saved, _empty())


def test_a_flipped_bit_in_a_weight_is_noticed(saved: Path) -> None:
    file = saved / "__0_0.distcp"
    content = bytearray(file.read_bytes())
    weight = _tensors()["model.weight"].numpy().tobytes()
    content[content.find(weight) + 1234] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedCheckpoint, match=r"__0_0\.distcp is truncated or damaged"):
        checkpoint.load(saved, _empty())


@pytest.mark.exhaustive
def test_any_flipped_bit_in_a_file_of_records_is_noticed_or_changes_nothing(saved: Path) -> None:
    file = saved / "__0_0.distcp"
    content = file.read_bytes()
    unnoticed = 0
    for place in range(0, len(content), 1 + len(content) // 150):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        file.write_bytes(flipped)
        loaded = _empty()
        try:
            checkpoint.load(saved, loaded)
        except DamagedCheckpoint as error:
            assert "__0_0.distcp" in str(error)
        else:
            unnoticed += 1
            assert all(torch.equal(loaded[name], value) for name, value in _tensors().items())
    assert unnoticed < 75  # what fills the gaps between records


@pytest.mark.parametrize("name", [".metadata", "checkpoint.json"])
def test_any_flipped_bit_in_index_or_seal_is_noticed(saved: Path, name: str) -> None:
    file = saved / name
    content = file.read_bytes()
    for place in range(0, len(content), 1 + len(content) // 100):
        flipped = bytearray(content)
        flipped[place] ^= 1
        file.write_bytes(flipped)
        with pytest.raises(DamagedCheckpoint) as caught:
            checkpoint.load(saved, _empty())
        assert name in str(caught.value), place


def test_a_checkpoint_of_before_formats_had_numbers_is_read(saved: Path) -> None:
    (saved / "checkpoint.json").unlink()
    seal = saved / "metadata.sha256"
    seal.write_text(hashlib.sha256((saved / ".metadata").read_bytes()).hexdigest())
    loaded = _empty()
    checkpoint.load(saved, loaded)
    assert torch.equal(loaded["model.weight"], _tensors()["model.weight"])
    seal.write_text("0" * 64)
    with pytest.raises(DamagedCheckpoint, match=r"\.metadata does not match metadata\.sha256"):
        checkpoint.load(saved, loaded)


def test_a_full_disk_is_reported_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with (
        full_disk(after_bytes=4000),
        pytest.raises(UserError, match=r"step-00000003 cannot be written .File too large"),
    ):
        saving.save(checkpoint.checkpoint_path(tmp_path, 3), _tensors())
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="step-00000003 cannot be written"):
        saving.save(checkpoint.checkpoint_path(tmp_path / "file", 3), _tensors())


def test_the_newest_are_kept_and_leftovers_removed(tmp_path: Path) -> None:
    for step in (5, 10, 99999999, 123456789):
        saving.save(checkpoint.checkpoint_path(tmp_path, step), _tensors())
    (tmp_path / "step-00000011.partial").mkdir()
    (tmp_path / "step-00000002.removed").mkdir()
    assert len(checkpoint.checkpoints(tmp_path)) == 4
    checkpoint.remove_old(tmp_path, keep=2)
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == [
        "step-99999999",
        "step-123456789",
    ]
    assert len(list(tmp_path.iterdir())) == 2


def test_an_index_that_lacks_a_part_of_a_tensor_is_refused(saved: Path) -> None:
    index = pickle.loads((saved / ".metadata").read_bytes())
    chunk = index.state_dict_metadata["model.weight"].chunks[0]
    chunk.sizes = torch.Size([40, 29])
    _write_index(saved, index)
    with pytest.raises(UserError, match=r"\.metadata lacks a part of model\.weight: copy"):
        checkpoint.load(saved, _empty())


def _shards(mesh: Mesh) -> dict[str, Tensor | Shard]:
    """Weights that are cut, biases that ranks share, and averages of each replica's own rows."""
    tensors: dict[str, Tensor | Shard] = {"step": torch.tensor(7)}
    rows = Dimension((11,)).ranges(mesh.domain.size, mesh.domain.index)
    columns = Dimension((6,)).ranges(mesh.tensor.size, mesh.tensor.index)
    own = Dimension((11,)).ranges(mesh.data.size, mesh.data.index)
    for layer in range(6):
        for name, shape, ranges, axes in (
            ("weight", (11, 6), (rows, columns), (mesh.data,)),
            ("bias", (6,), (columns,), (mesh.data, mesh.domain)),
            ("average", (11, 6), (own, columns), (mesh.domain,)),
        ):
            block = Block(shape, ranges)
            tensors[f"{layer}.{name}"] = Shard(torch.zeros(block.local_shape), block, axes)
    return tensors


@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 1, 2), (2, 3, 1), (4, 2, 2)])
def test_each_piece_is_written_once_and_the_work_is_shared(sizes: tuple[int, int, int]) -> None:
    data, domain, tensor = sizes
    layout = Layout(data=data, domain=domain, tensor=tensor)
    written: dict[str, int] = {}
    by_rank: list[int] = []
    for rank in range(layout.world_size):
        planner = ShardSavePlanner()
        with fake_mesh(layout.at(rank)) as mesh:
            planner.set_up_planner(own_share(_shards(mesh)), StorageMeta(), rank == 0)
            plan = planner.create_local_plan()
        by_rank.append(0)
        for item in plan.items:
            assert item.tensor_data is not None
            count = item.tensor_data.chunk.sizes.numel()
            written[item.index.fqn] = written.get(item.index.fqn, 0) + count
            by_rank[-1] += count
    assert written["step"] == 1
    assert {name: count for name, count in written.items() if name != "step"} == {
        f"{layer}.{name}": count
        for layer in range(6)
        for name, count in (("weight", 66), ("bias", 6), ("average", 66))
    }
    # Of weights, the part of one layer more than another; and the like of the others.
    assert max(by_rank) - min(by_rank) <= 66 + 66 + 6 + 1


def _load_without_looking(mesh: Mesh, path: Path) -> bool:
    """Work for a pool: load where none but the first rank can read the index."""
    plain = checkpoint_index._whole_index

    def read(path: Path) -> bytes:
        assert mesh.layout.rank == 0
        return plain(path)

    loaded = _empty()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_index, "_whole_index", read)
        checkpoint.load(path, loaded)
    return all(torch.equal(loaded[name], tensor) for name, tensor in _tensors().items())


def _load_damaged(mesh: Mesh, path: Path) -> str:
    """Work for a pool: load what one rank alone finds damaged; what each of them says."""
    plain = checkpoint._read

    def read(*arguments: Any) -> None:
        if mesh.layout.rank == 1:
            raise UserError("damaged")
        plain(*arguments)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError) as caught:
        patch.setattr(checkpoint, "_read", read)
        checkpoint.load(path, _empty())
    return str(caught.value)


def test_one_rank_reads_the_index_for_all(saved: Path, pool: Pool) -> None:
    assert pool.run(_load_without_looking, Layout(tensor=2), saved) == [True, True]


def test_what_one_rank_finds_damaged_is_said_by_all(saved: Path, pool: Pool) -> None:
    assert pool.run(_load_damaged, Layout(tensor=2), saved) == ["damaged"] * 2
