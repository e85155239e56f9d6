import pytest
import torch

from charrnn.errors import CharRNNError, OptionError
from charrnn.machine.distributed import SINGLE_PROCESS, Ranks, joined, local_rank
from charrnn.terminal import is_main_process


@pytest.mark.parametrize(("batch_size", "size"), [(8, 1), (8, 2), (8, 8), (9, 4), (3, 4)])
def test_processes_have_all_streams_between_them_and_none_twice(batch_size: int, size: int) -> None:
    streams = list(range(batch_size))
    parts = [streams[Ranks(rank, size).part(batch_size)] for rank in range(size)]
    assert [stream for part in parts for stream in part] == streams
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_seeds_of_processes_differ_and_the_first_has_that_of_the_training() -> None:
    seeds = [Ranks(rank, 8).seed(seed) for seed in range(8) for rank in range(8)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert [Ranks(0, 8).seed(seed) for seed in (0, 5, 2**31 - 1)] == [0, 5, 2**31 - 1]


def test_process_that_is_alone_communicates_with_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "distributed", None)
    loss, tensor = torch.tensor(2.0), torch.ones(3)
    with joined("cpu") as ranks:
        assert ranks is SINGLE_PROCESS
        assert ranks.is_first
        assert ranks.average([], loss) is loss
        assert ranks.gather(tensor, dim=0) is tensor
        assert ranks.broadcast(lambda: "value") == "value"
        assert ranks.broadcast_on_machine(lambda: "value") == "value"
        assert ranks.agree(3.0, stop=True) == (3.0, True)
        ranks.barrier()
        assert ranks.sum([1.0, 2.0]) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("rank", "size", "place", "expected", "speaking"),
    [
        ("", "", "", None, True),
        ("0", "1", "0", None, True),
        ("1", "1", "1", None, True),  # no training has such a process
        ("", "2", "", None, True),
        ("1", "2", "", None, True),
        ("0", "2", "0", 0, True),
        ("3", "4", "1", 1, False),
    ],
)
def test_place_on_the_machine_is_as_torchrun_says(
    monkeypatch: pytest.MonkeyPatch, rank: str, size: str, place: str, expected: int | None, *, speaking: bool
) -> None:
    for name, value in (("RANK", rank), ("WORLD_SIZE", size), ("LOCAL_RANK", place)):
        monkeypatch.setenv(name, value)
    assert local_rank() == expected
    assert is_main_process() == speaking


def test_environment_that_torchrun_would_not_set_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "first")):
        monkeypatch.setenv(name, value)
    with pytest.raises(CharRNNError, match="LOCAL_RANK is 'first'"):
        local_rank()


@pytest.mark.parametrize("device", ["cuda:1", "mps"])
def test_one_device_for_several_processes_is_an_error(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(OptionError, match=f"--device {device} is one device"), joined(device):
        pass
