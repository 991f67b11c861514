"""Signals that a run looks out for: it is told once, and a second Ctrl-C ends it at once."""
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

LOOKS_OUT = """
import sys, time
from src.submission.system.signals import signals
signals.listen()
with signals.on_stop(lambda: print("told", flush=True)):
    print("ready", flush=True)
    while signals.stop_signal is None or sys.argv[1] == "never":
        time.sleep(0.01)
time.sleep(0.2)  # a second signal may still come
signals.raise_if_stopped()
"""


def looking_out(how: str = "") -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", LOOKS_OUT, how], cwd=ROOT, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_ctrl_c_lets_the_run_save_itself_and_again_ends_it_at_once() -> None:
    process = looking_out("never")
    assert process.stdout is not None
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "told\n"
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == -signal.SIGINT


def test_a_signal_from_before_is_told_when_somebody_looks_out() -> None:
    heard, told = Signals(), []
    heard.warned = True
    with heard.on_stop(lambda: told.append("at once")):
        assert told == ["at once"]
    heard.raise_if_stopped()  # the time limit is near, which is no stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_that_is_repeated_counts_once(number: signal.Signals) -> None:
    process = looking_out()
    assert process.stdout is not None
    process.send_signal(number)
    assert process.stdout.readline() == "told\n"
    process.send_signal(number)
    if number == signal.SIGUSR1:
        process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=10)
    assert said == ("told\n" if number == signal.SIGUSR1 else "")  # by TERM


def test_a_sleeper_is_woken_by_a_signal_whichever_thread_takes_it_and_by_a_child() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
    of_children = signal.getsignal(signal.SIGCHLD)
    try:
        with Waker() as waker:
            threading.Timer(0.2, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)).start()
            start = time.monotonic()
            while not heard:
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
        signal.signal(signal.SIGUSR1, before)
    assert signal.set_wakeup_fd(-1) == -1
    assert signal.getsignal(signal.SIGCHLD) == of_children
