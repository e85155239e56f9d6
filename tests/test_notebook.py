"""Training in a kernel of Jupyter: interrupted cells, and threads that are not the main one."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel

TRAIN = 'charrnn.train(text="the cat sat on the mat.\\n" * 100, hidden_size=16, device="cpu", '
ENDLESS = TRAIN + "steps=10**6, on_event="


class Kernel:
    """A kernel, and what its last cell printed."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self._manager, self._client = manager, client
        self.printed = ""

    def run(self, code: str, *, interrupt_at: str | None = None) -> dict[str, Any]:
        """The reply to a cell, which is interrupted once it has printed a text."""
        self.printed, is_interrupted = "", False

        def note(message: dict[str, Any]) -> None:
            nonlocal is_interrupted
            self.printed += message["content"].get("text", "")
            if interrupt_at is not None and interrupt_at in self.printed and not is_interrupted:
                is_interrupted = True
                self._manager.interrupt_kernel()

        reply = self._client.execute_interactive(code, output_hook=note, timeout=120)
        content: dict[str, Any] = reply["content"]
        return content

    def evaluate(self, expression: str) -> str:
        """The printed value of an expression."""
        reply = self.run(f"print({expression}, end='')")
        assert reply["status"] == "ok", reply
        return self.printed


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "IPYTHONDIR": str(tmp_path_factory.mktemp("ipython"))}
    manager, client = start_new_kernel(kernel_name="python3", env=environment, cwd=str(tmp_path_factory.mktemp("cwd")))
    try:
        kernel = Kernel(manager, client)
        assert kernel.run("import os, signal, threading, charrnn")["status"] == "ok"
        yield kernel
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_interrupted_training_returns_a_model_that_samples(kernel: Kernel) -> None:
    reply = kernel.run(f"model = {ENDLESS}lambda record: print('at', record['step']))", interrupt_at="at 100")
    assert reply["status"] == "ok", reply
    assert "stopped and saved" in kernel.printed
    assert 100 <= int(kernel.evaluate("model.checkpoint.snapshot.progress.step")) < 10**6
    assert len(kernel.evaluate("model.sample(length=20)")) == 20
    assert int(kernel.evaluate("len(model.history)")) > 0


def test_second_interrupt_raises_keyboard_interrupt(kernel: Kernel) -> None:
    reply = kernel.run(f"{ENDLESS}lambda record: [signal.raise_signal(signal.SIGINT) for _ in range(2)])")
    assert (reply["status"], reply.get("ename")) == ("error", "KeyboardInterrupt")
    assert kernel.evaluate("signal.getsignal(signal.SIGINT) is signal.default_int_handler") == "True"


def test_training_works_in_another_thread(kernel: Kernel) -> None:
    code = f"models = []; thread = threading.Thread(target=lambda: models.append({TRAIN}steps=20)))"
    assert kernel.run(f"{code}; thread.start(); thread.join()")["status"] == "ok"
    assert len(kernel.evaluate("models[0].sample(length=20)")) == 20


def test_progress_has_no_bar_and_no_warning_without_widgets(kernel: Kernel) -> None:
    assert kernel.run(f"import sys; sys.modules['ipywidgets'] = None; {TRAIN}steps=20);")["status"] == "ok"
    assert "validation loss" in kernel.printed
    assert not any(each in kernel.printed for each in ("\r", "%|", "IProgress"))
