from __future__ import annotations

from src import gpu_idle


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
