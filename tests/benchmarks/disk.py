"""Saves that the system ends at any of its calls, disks that fail or are full, and files that were damaged.

Run by hand, as root and with strace for all of it, from the project's root:

    python -m tests.benchmarks.disk [--flips 10000] [--fillings 200]

Whatever happens to a save, there must be a sound checkpoint that is the old one or the new one, and what is left
behind must be gone after the next start. Where there is no room, or no right to write, a save must say so, and leave
every file as it was, to the byte. No damage to a file may pass unnoticed.
"""

import argparse
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from charrnn.config import PreparationConfig, TrainingConfig
from charrnn.errors import CharRNNError
from charrnn.files.atomic import remove_leftovers
from charrnn.machine.runtime import open_runtime
from charrnn.runs.checkpoint import Checkpoint
from charrnn.runs.folder import RunFolder
from charrnn.runs.start import start
from charrnn.text.corpus import Corpus, prepare
from charrnn.text.sources import Source
from tests.support import TEXT, TINY, marked_text

_OLDEST, _OLD, _NEW = 1, 2, 3  # seeds, by which checkpoints are told apart
_OF_FILES = {"openat", "write", "writev", "fsync", "rename", "link", "flock", "mkdir", "close", "getdents64", "lseek"}
_OF_FILES |= {"newfstatat", "fstat", "ioctl"}


def child(action: Callable[[], object], *tracer: str) -> int:
    """The exit status of a process that does this, 1 for a CharRNNError, under strace if that has options."""
    begin, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(begin, 1)
        code = 2
        try:
            action()
            code = 0
        except CharRNNError:
            code = 1
        finally:
            os._exit(code)
    watcher = None
    if tracer:
        watcher = subprocess.Popen(["strace", *tracer, "-p", str(pid)], stderr=subprocess.PIPE, text=True)
        assert watcher.stderr is not None
        while "attached" not in (line := watcher.stderr.readline()):
            assert line, "strace does not start"
    os.write(go, b"x")
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if watcher is not None:
        watcher.communicate()
    os.close(begin)
    os.close(go)
    return status


class Folder:
    """A run's folder with an old checkpoint and an older one, and what must hold of it."""

    def __init__(self, path: Path, checkpoint: Checkpoint, *, best: bool) -> None:
        self.run = RunFolder(path)
        self._checkpoint, self._best = checkpoint, best

    def prepare(self) -> None:
        """As it is before each save."""
        shutil.rmtree(self.run.path, ignore_errors=True)
        for seed in (_OLDEST, _OLD):
            self.run.save(replace(self._checkpoint, seed=seed), best=True)
        self._before = self._contents()

    def save(self) -> None:
        """The save that something happens to."""
        self.run.save(replace(self._checkpoint, seed=_NEW), best=self._best)

    def _contents(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.run.path.iterdir()}

    def check(self, *, unchanged: bool = False) -> None:
        """A sound checkpoint there is, the old or the new one; or all is as it was."""
        checkpoint, damaged = self.run.load_newest()
        assert not damaged, damaged
        assert checkpoint.seed == _OLD if unchanged else checkpoint.seed in (_OLD, _NEW), checkpoint.seed
        assert Checkpoint.load(self.run.best).seed in (_OLD, _NEW)
        assert Checkpoint.load(self.run.last_but_one).seed in (_OLDEST, _OLD)
        assert not unchanged or self._contents() == self._before, "something was changed or left behind"

    def check_next(self) -> None:
        """The next start clears up, and its save works."""
        remove_leftovers(self.run.path)
        self.save()
        assert len(list(self.run.path.iterdir())) == 3, list(self.run.path.iterdir())
        assert self.run.load_newest()[0].seed == _NEW


class Fallen(Folder):
    """The same whose newest checkpoint is damaged: a save is that of a run that has just gone back."""

    def prepare(self) -> None:
        """Damage it, but not what shares its bytes under another name."""
        super().prepare()
        content = self.run.last.read_bytes()
        self.run.last.unlink()
        self.run.last.write_bytes(content[:-1])

    def save(self) -> None:
        """Go back, and on."""
        _, damaged = self.run.load_newest()
        self.run.rename_damaged(damaged)
        super().save()

    def check(self, *, unchanged: bool = False) -> None:
        """A sound checkpoint there is: the new one or the oldest, which stays the backup until the save after it."""
        assert self.run.load_newest()[0].seed in (_OLDEST, _NEW)
        assert Checkpoint.load(self.run.last_but_one).seed == _OLDEST

    def check_next(self) -> None:
        """The next start clears up and keeps what was damaged."""
        remove_leftovers(self.run.path)
        self.save()
        assert len(list(self.run.path.iterdir())) == 4, list(self.run.path.iterdir())
        assert self.run.load_newest()[0].seed == _NEW


def calls_of(folder: Folder) -> list[tuple[str, int]]:
    """The system calls of a save, each with how many of its name came before it, itself included."""
    folder.prepare()
    with tempfile.NamedTemporaryFile() as log:
        assert child(folder.save, "-o", log.name) == 0
        names = re.findall(r"^(\w+)\(", Path(log.name).read_text(), re.MULTILINE)
    seen: Counter[str] = Counter()
    calls = []
    for name in names:
        seen[name] += 1
        calls.append((name, seen[name]))
    return [call for call in calls if call[0] not in ("exit_group", "read")]


def kill_at_every_call(folder: Folder) -> None:
    """SIGKILL in place of each system call of a save."""
    calls, killed = calls_of(folder), 0
    for name, number in calls:
        folder.prepare()
        status = child(folder.save, "-o", os.devnull, "-e", f"inject={name}:signal=KILL:when={number}")
        killed += status == -signal.SIGKILL
        folder.check()
        folder.check_next()
    print(f"  killed at {killed} of {len(calls)} system calls: a sound checkpoint each time", flush=True)


def fail_at_every_call(folder: Folder, error: str) -> None:
    """An error in place of each system call of a save that has to do with files."""
    calls = [call for call in calls_of(folder) if call[0] in _OF_FILES]
    codes: Counter[int] = Counter()
    for name, number in calls:
        folder.prepare()
        status = child(folder.save, "-o", os.devnull, "-e", f"inject={name}:error={error}:when={number}")
        codes[status] += 1
        assert status in (0, 1), (name, number, status)
        folder.check()
        folder.check_next()
    print(f"  {error} at each of {len(calls)} calls: {codes[1]} times told, {codes[0]} times of no harm", flush=True)


@contextmanager
def small_disk(path: Path, size: int) -> Iterator[Path]:
    """A disk in memory of so many bytes."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def fill(folder: Folder, disk: Path, draw: random.Random, count: int, size: int) -> None:
    """Saves to a disk that has room for a part of a checkpoint only."""
    ballast = disk / "ballast"
    for _ in range(count):
        ballast.unlink(missing_ok=True)
        folder.prepare()
        free = shutil.disk_usage(disk).free
        with ballast.open("wb") as stream:
            stream.write(bytes(free - draw.randrange(size)))
        assert child(folder.save) == 1
        folder.check(unchanged=True)
    print(f"  a full disk {count} times: all told, nothing changed, nothing left", flush=True)


def limit(folder: Folder, draw: random.Random, count: int, size: int) -> None:
    """Saves by a process that may write so many bytes to a file."""

    def limited(most: int) -> Callable[[], None]:
        def save() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
            folder.save()

        return save

    for _ in range(count):
        folder.prepare()
        assert child(limited(draw.randrange(size))) == 1
        folder.check(unchanged=True)
    print(f"  a limit to a file's size {count} times: all told, nothing changed, nothing left", flush=True)


def forbid(folder: Folder) -> None:
    """A save by one who may not write there."""

    def save_as_nobody() -> None:
        os.setgid(65534)
        os.setuid(65534)
        folder.save()

    folder.prepare()
    for path in (folder.run.path, *folder.run.path.parents):
        if path.stat().st_uid == os.getuid() and path.name:
            path.chmod(0o755)
    assert child(save_as_nobody) == 1
    folder.check(unchanged=True)
    print("  a folder that may not be written: told, nothing changed, nothing left", flush=True)


def damage(path: Path, load: Callable[[Path], object], draw: random.Random, flips: int) -> None:
    """Truncate a copy of a file at every byte, and flip bits of it."""
    whole, copy = path.read_bytes(), path.with_name("copy")

    def is_detected(content: bytes | bytearray) -> bool:
        copy.write_bytes(content)
        try:
            load(copy)
        except CharRNNError:
            return True
        return False

    undetected = sum(not is_detected(whole[:length]) for length in range(len(whole)))
    print(f"  {path.name}: {len(whole):,} truncations, {undetected} not detected", flush=True)
    undetected = 0
    for _ in range(flips):
        position = draw.randrange(8 * len(whole))
        flipped = bytearray(whole)
        flipped[position // 8] ^= 1 << position % 8
        undetected += not is_detected(flipped)
    print(f"  {path.name}: {flips:,} flipped bits, {undetected} not detected", flush=True)
    assert not is_detected(whole)


def swap(corpora: list[Corpus], path: Path, openings: int) -> None:
    """Open a corpus while another process replaces it: text and digest must always be of one and the same."""
    texts = {corpus.source_digest: marked_text(corpus) for corpus in corpora}
    path.hardlink_to(corpora[0].path)
    child = os.fork()
    while child == 0:
        for corpus in corpora:
            copy = path.with_name("copy")
            copy.unlink(missing_ok=True)
            copy.hardlink_to(corpus.path)
            copy.replace(path)
    seen: Counter[str] = Counter()
    try:
        for _ in range(openings):
            corpus = Corpus.open(path)
            assert marked_text(corpus) == texts[corpus.source_digest], "a text with another one's digest"
            seen[corpus.source_digest] += 1
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    print(f"  {openings:,} openings beside a writer, {' and '.join(map(str, seen.values()))} of each text", flush=True)


def main() -> None:
    """One trouble after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=10_000)
    parser.add_argument("--fillings", type=int, default=200)
    arguments = parser.parse_args()
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        corpus = prepare([Source("tiny", None, TEXT.encode())], PreparationConfig(), place / "corpus.safetensors")
        config = TrainingConfig(steps=1, batch_size=2, seq_length=8)
        run = start(RunFolder(place / "trained"), corpus, TINY, config, open_runtime("cpu", "float32"), seed=1)
        run.drive([])
        checkpoint = run.checkpoint()
        size = run.folder.last.stat().st_size
        print("a corpus that is replaced while it is read")
        other = prepare([Source("tiny", None, TEXT[::-1].encode())], PreparationConfig(), place / "other.safetensors")
        swap([corpus, other], place / "swapped.safetensors", arguments.flips)
        print("damaged files")
        damage(corpus.path, Corpus.open, draw, arguments.flips)
        damage(run.folder.last, Checkpoint.load, draw, arguments.flips)
        for best in (False, True):
            print(f"saves of a checkpoint of {size:,} bytes, {'the best so far' if best else 'not the best'}")
            folder = Folder(place / "run", checkpoint, best=best)
            limit(folder, draw, arguments.fillings, size)
            if os.getuid() == 0 and sys.platform == "linux":
                forbid(folder)
                with small_disk(place / f"disk{best}", 8 * size) as disk:
                    fill(Folder(disk / "run", checkpoint, best=best), disk, draw, arguments.fillings, size - 4096)
            if shutil.which("strace"):
                kill_at_every_call(folder)
                for error in ("EIO", "ENOSPC"):
                    fail_at_every_call(folder, error)
                print("  after a fallback", flush=True)
                kill_at_every_call(Fallen(place / "fallen", checkpoint, best=best))


if __name__ == "__main__":
    main()
