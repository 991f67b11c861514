from __future__ import annotations

import pytest

from src.monitoring import gpu_idle


def epoch(gpu: object, time: float = 10.0, waits: float = 8.0) -> dict[str, object]:
    return {"system/gpu": gpu, "train/time": time, "train/data_time": waits}


def test_waiting_for_data_suggests_more_loaders() -> None:
    result = gpu_idle.assess([epoch("20"), epoch(26.0), epoch("")], {"num_workers": 2})
    assert gpu_idle.summarize([result, None]) == ["GPU 23 % busy: try num_workers 8"]
    few = gpu_idle.assess([epoch(23)], {"num_workers": 2, "facts": {"threads": 4}})
    assert gpu_idle.summarize([few]) == ["GPU 23 % busy: try num_workers 8 on as many CPUs (now 4)"]


def test_idle_without_waiting_suggests_larger_batches() -> None:
    result = gpu_idle.assess([epoch(10, waits=1), epoch(30, waits=1)], {"num_workers": 2, "batch_size": 32})
    assert gpu_idle.summarize([result, result]) == ["GPU 20 % busy: try a batch_size above 32 (2 runs)"]
    most = gpu_idle.assess([epoch(10)], {"num_workers": 16, "batch_size": 32})  # loaders are no help any more
    assert most and most.suggestion == "a batch_size above 32"


def test_busy_or_unmeasured_gpu_has_no_suggestion() -> None:
    assert gpu_idle.assess([epoch(60), epoch(81)], {"num_workers": 2}) is None
    assert gpu_idle.assess([epoch(""), epoch(None), {}], {"num_workers": 2}) is None
    assert gpu_idle.summarize([None]) == []


def watch(samples: list[gpu_idle.Sample], **limits: float) -> list[gpu_idle.IdleNow | None]:
    watcher = gpu_idle.IdleWatch(gpu_idle.Limits(**limits))
    return [watcher.add(sample) for sample in samples]


def minutes(count: int, busy: float = 4.0, data: float = 0.0, evaluation: float = 0.0, cpu: float = 0.0,
            sees_loop: bool = True) -> list[gpu_idle.Sample]:
    """Samples of every half minute. data, evaluation, cpu: shares of the time."""
    return [gpu_idle.Sample(time, busy, data * time, evaluation * time, cpu * time, sees_loop)
            for time in range(0, 60 * count + 1, 30)]


@pytest.mark.parametrize(("shares", "cause"), [
    ({"data": 0.83, "evaluation": 0.6}, "data loading takes 83 % of the time"),
    ({"evaluation": 0.6, "cpu": 1.0}, "evaluation takes 60 % of the time"),
    ({"cpu": 0.02}, "it waits, using 0.02 CPUs"),
    ({"data": 0.2, "cpu": 1.26}, "its processes use 1.3 CPUs meanwhile"),
    ({"data": 0.9, "cpu": 2.0, "sees_loop": False}, "its processes use 2.0 CPUs meanwhile")])
def test_idle_gpu_is_reported_after_15_minutes_with_its_cause(shares: dict[str, float], cause: str) -> None:
    found = watch(minutes(20, **shares))
    assert [idle is not None for idle in found] == [False] * 30 + [True] * 11
    assert found[-1] and found[-1].line() == f"GPU 4 % busy in the last 15 min: {cause}"


def test_limits_decide_what_is_idle() -> None:
    assert not any(watch(minutes(60, busy=12)))
    assert any(watch(minutes(60, busy=12), below=20))
    assert sum(map(bool, watch(minutes(6), minutes=5))) == 3
    assert not any(watch(minutes(60, busy=0), below=0))  # off


def test_warning_ends_when_the_gpu_is_busy_again() -> None:
    later = [gpu_idle.Sample(1800 + time, 90, 0, 0, 0) for time in range(30, 900, 30)]
    found = watch([*minutes(30), *later])
    assert found[60] and not found[64]  # 90 s at 90 % are 9 of 15 minutes
    assert not any(found[64:])


def test_first_samples_of_a_start_which_are_dense_do_not_weigh_more() -> None:
    dense = [gpu_idle.Sample(time, 100, 0, 0, 0) for time in (0, 1, 2, 4, 8, 16)]
    found = watch([*dense, *(gpu_idle.Sample(time, 5, 0, 0, 0) for time in range(46, 1000, 30))])
    assert found[-1] and found[-1].busy < 10


@pytest.mark.parametrize("record", [None, [], {"busy": "x"}, {"busy": 4, "minutes": 15}, {"busy": 4, "minutes": 15,
                                                                                    "cause": None}])
def test_damaged_record_is_no_warning(record: object) -> None:
    assert gpu_idle.read_record(record) is None
    assert gpu_idle.read_record({"busy": 4, "minutes": 15, "cause": "x"}) == gpu_idle.IdleNow(4, 15, "x")


def test_damaged_limits_are_the_default() -> None:
    assert gpu_idle.read_limits(None) is None
    assert gpu_idle.read_limits({"below": 5, "minutes": 2}) == gpu_idle.Limits(5, 2)
    assert gpu_idle.read_limits({"below": "x"}) is None
