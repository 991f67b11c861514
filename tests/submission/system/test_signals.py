"""A run that handles signals is notified once; a second Ctrl-C ends it at once."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from src.submission.system.signals import Signals, Waker
from tests.conftest import ROOT

HANDLES_SIGNALS = """
import sys, time
from src.submission.system.signals import signals
signals.listen()
with signals.on_stop(lambda: print("notified", flush=True)):
    print("ready", flush=True)
    while signals.stop_signal is None or sys.argv[1] == "never":
        time.sleep(0.01)
time.sleep(0.2)  # a second signal may still come
signals.raise_if_stopped()
"""


def start_program(mode: str = "") -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HANDLES_SIGNALS, mode], cwd=ROOT, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_first_ctrl_c_lets_the_run_save_itself_and_second_ends_it() -> None:
    process = start_program("never")
    assert process.stdout is not None
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "notified\n"
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=300) == -signal.SIGINT


def test_earlier_warning_reaches_a_later_callback() -> None:
    signals, calls = Signals(), []
    signals.warned = True
    with signals.on_stop(lambda: calls.append("at once")):
        assert calls == ["at once"]
    signals.raise_if_stopped()  # a near time limit is not a stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_repeated_signal_counts_once(number: signal.Signals) -> None:
    process = start_program()
    assert process.stdout is not None
    process.send_signal(number)
    assert process.stdout.readline() == "notified\n"
    process.send_signal(number)
    if number == signal.SIGUSR1:
        process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert output == ("notified\n" if number == signal.SIGUSR1 else "")  # by TERM


def test_waker_wakes_on_a_signal_to_any_thread_and_on_the_end_of_a_child() -> None:
    received: list[int] = []
    previous = signal.signal(signal.SIGUSR1, lambda number, _: received.append(number))
    child_handler = signal.getsignal(signal.SIGCHLD)
    try:
        with Waker() as waker:
            threading.Timer(0.2, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)).start()
            start = time.monotonic()
            while not received:
                waker.wait(60)
            assert time.monotonic() - start < 30
        with Waker() as waker, subprocess.Popen(["sleep", "0.2"]) as child:
            start = time.monotonic()
            while child.poll() is None:
                waker.wait(60)
            assert time.monotonic() - start < 30
        with Waker() as waker:
            reader, writer = os.pipe()
            os.write(writer, b"x")
            assert waker.wait(60, reader) == [reader]
            os.read(reader, 1)
            assert waker.wait(0, reader) == []
            os.close(writer)
            assert waker.wait(None, reader) == [reader]  # its end
            os.close(reader)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert signal.set_wakeup_fd(-1) == -1
    assert signal.getsignal(signal.SIGCHLD) == child_handler
