"""The lines above the runs on the live screen: counts with a bar, time left, throughput, cost, and the search."""
from __future__ import annotations

import time
from collections.abc import Sequence

from rich.text import Text

from src.submission.status import retry_policy, states, throughput
from src.submission.system.terminal import count, format_duration
from src.terminal import cells, colors
from src.terminal.live.reader import Batch, Snapshot
from src.terminal.live.run_list import urgency

# parts of the bar, each with a character of its own: ended well, failed, running
_PARTS = (("█", retry_policy.ENDED_WELL - {states.PAUSED}, colors.GREEN), ("x", retry_policy.UNSUCCESSFUL, colors.RED),
          ("▒", frozenset((states.RUNNING,)), colors.CYAN))
_REST = "░"
_MIN_BAR, _MAX_BAR = 10, 40  # cells


def lines(snapshot: Snapshot, number: int, now: float, columns: int) -> list[Text]:
    """Return the lines about one batch of a snapshot. number: its index."""
    batch = snapshot.batches[number]
    several = f"batch {number + 1} of {len(snapshot.batches)}   " if len(snapshot.batches) > 1 else ""
    clock = several + time.strftime("%H:%M:%S", time.localtime(now))
    title = cells.shorten(batch.names.title(batch.observation.path), columns - len(clock) - 2)
    first = Text(cells.pad(title, columns - len(clock)), colors.BOLD).append(clock, "not bold")
    search = [Text(cells.truncate(line, columns)) for line in _search_lines(batch.search)]
    return [first, *_counts(batch, columns), Text(cells.truncate(_progress(batch, snapshot, now), columns)), *search]


def _search_lines(search: Sequence[str]) -> list[str]:
    """The headline of a search, and its rungs on one line."""
    if len(search) < 3:
        return list(search[:1])
    return [search[0], "rungs (trials, promoted, best)  " + "  ·  ".join(" ".join(row.split()) for row in search[2:])]


def _counts(batch: Batch, columns: int) -> list[Text]:
    """The bar, and how many runs are in each state: beside it, or below it, on as many lines as that takes."""
    total = sum(number for state, number in batch.counts.items() if state != states.DELETED)
    ended = sum(number for state, number in batch.counts.items() if state in _PARTS[0][1])
    done = Text(f" {ended:,}/{total:,} runs ", colors.BOLD)
    numbers = [Text(f"  {batch.counts[state]:,} ").append(states.shown(state), colors.of_state(state))
               for state in sorted(batch.counts, key=urgency)]
    parts = [(sum(batch.counts.get(state, 0) for state in members), character, style)
             for character, members, style in _PARTS]
    space = columns - done.cell_len - sum(number.cell_len for number in numbers)
    if space >= _MIN_BAR:
        return [Text().join([bar(parts, total, min(_MAX_BAR, space)), done, *numbers])]
    lines = [bar(parts, total, min(_MAX_BAR, columns - done.cell_len)).append_text(done), Text()]
    for number in numbers:
        if lines[-1].cell_len + number.cell_len > columns:
            lines.append(Text())
        lines[-1].append_text(number)
    return lines


def bar(parts: Sequence[tuple[int, str, str]], total: int, width: int) -> Text:
    """Return a bar of `width` cells. parts: numbers of `total`, each with its character and style."""
    text, reached, drawn = Text(), 0, 0
    for number, character, style in parts:
        reached += number
        end = width * reached // max(total, 1)
        text.append(character * (end - drawn), style)
        drawn = end
    return text.append(_REST * (width - drawn), colors.DIM)


def _progress(batch: Batch, snapshot: Snapshot, now: float) -> str:
    """Throughput, time left, cost so far, and the age of Slurm's answer."""
    speed = batch.speed
    rate = speed.now or speed.over_the_batch
    parts = [f"{throughput.format_rate(rate)} runs an hour" if rate else ""]
    if speed.left is not None:
        parts.append(f"{format_duration(speed.left)} left, until {_clock(now + speed.left, now)}")
    parts.append(batch.cost)
    if snapshot.slurm_time is not None:
        parts.append(f"Slurm {max(0, now - snapshot.slurm_time):.0f} s ago")
    elif not batch.observation.queue_answered and batch.counts.get(states.UNKNOWN):
        parts.append("squeue did not answer")
    return "  ·  ".join(filter(None, parts)) or count(len(batch.observation.runs), "run")


def _clock(moment: float, now: float) -> str:
    return time.strftime("%H:%M" if moment - now < 12 * 3600 else "%a %H:%M", time.localtime(moment))
