"""Trainings in several processes: the same model and files, whatever happens to one of them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch._C._distributed_c10d import TCPStore

from charrnn.runs.checkpoint import Checkpoint
from tests.support import TEXT, Forked

OPTIONS = "--hidden-size 16 --batch-size 8 --seq-length 16 --precision float32 --seed 3 --learning-rate 0.01"
SHORT = "--steps 60 --eval-every 20"
LONG = "--steps 500 --eval-every 250 --checkpoint-every 25"

Start = Callable[..., list[Forked]]


@pytest.fixture(autouse=True)
def text(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def start(forked: Callable[..., Forked]) -> Iterator[Start]:
    """Start a training in several processes, as torchrun would: `start(2, "out", "--dropout 0")`.

    Like its agent, this process holds the store.

    The last process may have other variables in its environment.
    """
    processes: list[Forked] = []
    stores: list[TCPStore] = []

    def begin(
        size: int, run: str, options: str, last: Mapping[str, str] | None = None, *, quiet: bool = True
    ) -> list[Forked]:
        stores.append(TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False))
        words = ["train", "tiny.txt", "-o", run, *OPTIONS.split(), *options.split(), *["--quiet"] * quiet]
        own = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(stores[-1].port)}
        own |= {"TORCHELASTIC_USE_AGENT_STORE": "True"}
        for rank in range(size):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0"} if size > 1 else {}
            more = last if last and rank == size - 1 else {}
            processes.append(forked(*words, environment={**own, **place, **more}))
        return processes[-size:]

    yield begin
    for process in processes:
        process.process.kill()


def wait(processes: list[Forked]) -> list[int]:
    """Exit codes; what went wrong is shown."""
    done = [process.wait() for process in processes]
    for each in done:
        sys.stderr.write(each.stderr)
    return [each.returncode for each in done]


def losses(folder: Path) -> list[float]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record["val_loss"] for record in records if "val_loss" in record]


def are_equal(a: Path, b: Path) -> bool:
    """True if two runs have come to the same state, in every process, and have the same log."""
    states = [Checkpoint.load(folder / "last.safetensors").snapshot for folder in (a, b)]
    assert states[0].tensors.keys() == states[1].tensors.keys()
    same = all(torch.equal(tensor, states[1].tensors[name]) for name, tensor in states[0].tensors.items())
    return same and states[0].progress == states[1].progress and losses(a) == losses(b)


def wait_for_checkpoints(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while not (folder / "last-1.safetensors").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_learning_curves_of_1_2_and_4_processes_agree_within_rounding(start: Start, tmp_path: Path) -> None:
    curves = []
    for size in (1, 2, 4):
        assert wait(start(size, f"of-{size}", f"{SHORT} --dropout 0")) == [0] * size
        curves.append(losses(tmp_path / f"of-{size}"))
        state = Checkpoint.load(tmp_path / f"of-{size}" / "last.safetensors").snapshot.tensors["trainer.state.0.0"]
        assert state.shape == (1, 8, 16)
    assert len(curves[0]) == 3
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)
    assert curves[2] == pytest.approx(curves[0], rel=1e-4)


def test_each_process_draws_its_own_dropout(start: Start, tmp_path: Path) -> None:
    for size in (1, 2):
        assert wait(start(size, f"of-{size}", f"{SHORT} --dropout 0.5")) == [0] * size
    one, two = (losses(tmp_path / f"of-{size}") for size in (1, 2))
    assert one != pytest.approx(two, rel=1e-4)
    assert one == pytest.approx(two, rel=0.1)
    tensors = Checkpoint.load(tmp_path / "of-2" / "last.safetensors").snapshot.tensors
    assert not torch.equal(tensors["trainer.random.cpu"], tensors["trainer.random.cpu.1"])


def test_one_process_reports(start: Start, tmp_path: Path) -> None:
    first, second = (process.wait() for process in start(2, "out", f"{SHORT} --json"))
    assert json.loads(first.stdout)["steps"] == 60
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "best.safetensors", "last-1.safetensors", "last.safetensors", "metrics.jsonl",
    ]  # fmt: skip


@pytest.mark.parametrize(("rank", "number"), [(0, signal.SIGINT), (1, signal.SIGTERM)])
def test_signal_to_any_process_stops_all_and_the_run_continues_exactly(
    start: Start, tmp_path: Path, rank: int, number: signal.Signals
) -> None:
    processes = start(2, "out", LONG)
    wait_for_checkpoints(tmp_path / "out")
    pid = processes[rank].process.pid
    assert pid is not None
    os.kill(pid, number)
    codes = wait(processes)
    assert codes[rank] == 128 + number
    assert codes[1 - rank] == 0
    assert Checkpoint.load(tmp_path / "out/last.safetensors").snapshot.progress.step < 500
    assert wait(start(2, "out", f"{LONG} --resume")) == [0, 0]
    assert wait(start(2, "whole", LONG)) == [0, 0]
    assert are_equal(tmp_path / "out", tmp_path / "whole")


def test_killed_process_ends_all_with_one_line_and_the_run_continues_exactly(start: Start, tmp_path: Path) -> None:
    first, second = start(2, "out", LONG)
    wait_for_checkpoints(tmp_path / "out")
    second.process.kill()
    begin = time.monotonic()
    done = first.wait()
    assert time.monotonic() - begin < 60
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: another process of this training has ended")
    assert wait(start(2, "out", f"{LONG} --resume")) == [0, 0]
    assert wait(start(2, "whole", LONG)) == [0, 0]
    assert are_equal(tmp_path / "out", tmp_path / "whole")


def test_run_of_two_processes_continues_in_one(start: Start, tmp_path: Path) -> None:
    options = f"{LONG} --dropout 0"
    assert wait(start(2, "out", options.replace("500", "300"))) == [0, 0]
    (alone,) = start(1, "out", f"{options.replace('500', '400')} --resume", quiet=False)
    done = alone.wait()
    assert done.returncode == 0
    assert "the number of processes was 2 and is 1 now: dropout will differ" in done.stderr
    assert wait(start(2, "two", options.replace("500", "300"))) == [0, 0]
    assert wait(start(2, "two", f"{options.replace('500', '400')} --resume")) == [0, 0]
    ends = [Checkpoint.load(tmp_path / name / "last.safetensors").snapshot for name in ("out", "two")]
    assert [end.progress.step for end in ends] == [400, 400]
    assert [end.num_ranks for end in ends] == [1, 2]
    for name, tensor in ends[0].tensors.items():
        if name.startswith("model."):
            torch.testing.assert_close(tensor, ends[1].tensors[name], rtol=1e-2, atol=1e-3)


def test_batch_size_that_is_not_divisible_is_an_error_that_names_the_nearest(start: Start) -> None:
    done = [process.wait() for process in start(2, "out", f"{SHORT} --batch-size 9")]
    assert [each.returncode for each in done] == [2, 2]
    printed = "".join(each.stderr for each in done)
    assert printed == "error: --batch-size 9 is not divisible by 2 processes: use 8 or 10\n"


def test_error_before_the_processes_join_is_printed_once(start: Start) -> None:
    done = [process.wait() for process in start(2, "out", f"{SHORT} --resume --overwrite")]
    assert [each.returncode for each in done] == [2, 2]
    assert sum(each.stderr.count("\n") for each in done) == 1


def test_error_of_one_process_ends_all_and_is_printed_once(start: Start, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("in the way")
    done = [process.wait() for process in start(2, "out", SHORT)]
    assert [each.returncode for each in done] == [1, 1]
    printed = "".join(each.stderr for each in done)
    assert printed.count("\n") == 1
    assert "out is a file" in printed


def test_each_machine_prepares_the_text_for_itself(start: Start, tmp_path: Path) -> None:
    elsewhere = {"LOCAL_RANK": "0", "GROUP_RANK": "1", "CHARRNN_DATA_DIR": "there"}
    assert wait(start(2, "out", SHORT, elsewhere)) == [0, 0]
    assert (tmp_path / "there" / "tiny.safetensors").read_bytes() == (tmp_path / "data/tiny.safetensors").read_bytes()


def test_error_on_one_machine_while_the_others_wait_is_printed_once(start: Start, tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    elsewhere = {"LOCAL_RANK": "0", "GROUP_RANK": "1", "CHARRNN_DATA_DIR": "there"}
    done = [process.wait() for process in start(2, "out", SHORT, elsewhere)]
    assert [each.returncode for each in done] == [1, 1]
    printed = "".join(each.stderr for each in done)
    assert printed.count("\n") == 1
    assert "there/tiny.safetensors cannot be written" in printed


def test_torchrun_restarts_a_run_that_lost_a_process(start: Start, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    words = ["-m", "charrnn", "train", "tiny.txt", "-o", "out", *OPTIONS.split(), *LONG.split(), "--quiet", "--resume"]
    # As many threads as the forked processes have, which began with those of this one: sums may depend on them.
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    agent = subprocess.Popen([*torchrun, *words], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    wait_for_checkpoints(tmp_path / "out")
    os.kill(int((tmp_path / "out/.lock").read_text()), signal.SIGKILL)
    assert agent.stderr is not None
    printed = agent.communicate(timeout=120)[1]
    assert agent.returncode == 0, printed
    assert wait(start(2, "whole", LONG)) == [0, 0]
    assert are_equal(tmp_path / "out", tmp_path / "whole")


def test_number_of_processes_that_does_not_divide_the_batch_size_is_an_error(start: Start) -> None:
    assert wait(start(2, "out", SHORT)) == [0, 0]
    done = [process.wait() for process in start(3, "out", f"{SHORT.replace('60', '80')} --resume")]
    assert [each.returncode for each in done] == [1, 1, 1]
    printed = "".join(each.stderr for each in done)
    assert printed.count("\n") == 1
    assert "which is not divisible by 3 processes: resume it with a number of processes that divides it" in printed


def test_second_signal_does_not_cut_the_save_short(start: Start, tmp_path: Path) -> None:
    processes = start(2, "out", LONG)
    wait_for_checkpoints(tmp_path / "out")
    for _ in range(2):
        for process in processes:
            assert process.process.pid is not None
            os.kill(process.process.pid, signal.SIGTERM)
        time.sleep(0.01)
    assert wait(processes) == [143, 143]
    assert wait(start(2, "out", f"{LONG} --resume")) == [0, 0]
