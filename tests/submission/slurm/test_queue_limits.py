"""Room in the queue, and limits that the cluster tells before they are hit."""
from __future__ import annotations

from pathlib import Path

import pytest

from src.errors import SlurmError
from src.submission.slurm import client, queue_limits
from src.submission.slurm.queue_limits import Limit, QueueFull, QueueLimiter

CONFIG = "AccountingStorageEnforce = {}\nMaxJobCount             = 10000\n"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The answers of Slurm's commands, by the arguments that they begin with, after the program's options."""
    answers = {"scontrol show config": CONFIG.format("associations,limits,qos"), "id": "me\n"}

    def ask(command: list[str]) -> str | None:
        words = " ".join(word for word in command if not word.startswith("--"))
        return next((text for key, text in answers.items() if words.startswith(key)), None)

    monkeypatch.setattr(client, "query", ask)
    monkeypatch.setattr(client, "own_jobs", lambda *options: answers.get("squeue"))
    return answers


def test_tightest_limit_of_the_accounts(cluster: dict[str, str]) -> None:
    cluster["squeue"] = "lab|normal\n" * 12 + "other|normal\n" * 50
    cluster["sacctmgr show associations"] = "lab||normal|100|\nlab|special|normal|1|\nother||normal|60|500\n"
    assert queue_limits.tightest({"account": "lab"}, 88) is None
    found = queue_limits.tightest({"account": "lab"}, 108)
    assert found == Limit(100, "your account's (lab)", 12)
    assert found.line(108).startswith("your account's (lab) limit: 100 queued, 12 in use; 88 of 108 can be queued now;")
    cluster["sacctmgr show user me"] = "other\n"
    assert queue_limits.tightest({}, 20) == Limit(60, "your account's (other)", 50)
    assert queue_limits.tightest({"account": "lab", "partition": "special"}, 5) == Limit(1, "your account's (lab)", 12)
    assert Limit(100, "x", 120).line(8).startswith("x limit: 100 queued, 120 in use; 0 of 8 ")


def test_tightest_limit_of_the_qos_and_of_the_partitions_qos(cluster: dict[str, str]) -> None:
    cluster["squeue"] = "lab|normal\n" * 2 + "lab|low\n" * 3
    cluster["sacctmgr show associations"] = "lab||low||\n"
    cluster["sacctmgr show qos"] = "normal|1||\nlow|10|20|\nhigh|4||\npartition|6||\n"
    assert queue_limits.tightest({}, 8) == Limit(10, "the QOS's (low)", 3)
    assert queue_limits.tightest({"qos": "high"}, 8) == Limit(4, "the QOS's (high)", 0)
    cluster["scontrol show partition p"] = "PartitionName=p\n   AllowNodes=ALL QoS=partition\n"
    assert queue_limits.tightest({"partition": "p"}, 8) == Limit(6, "the QOS's (partition)", 5)


@pytest.mark.parametrize("enforced", ["none", "associations"])
def test_limits_that_are_not_enforced_are_ignored(cluster: dict[str, str], enforced: str) -> None:
    cluster["scontrol show config"] = CONFIG.format(enforced)
    cluster["sacctmgr show associations"] = "lab||normal|1|\n"
    assert queue_limits.tightest({}, 108) is None
    assert queue_limits.tightest({}, 10001) == Limit(10000, "the cluster's", 0)


def test_no_limits_without_an_answer(cluster: dict[str, str]) -> None:
    cluster.clear()
    assert queue_limits.tightest({"partition": "p"}, 10**6) is None


def queue(*comments: str) -> client.Queue:
    return client.Queue(True, {str(number): client.Job(str(number), "PENDING", comment=comment)
                              for number, comment in enumerate(comments)})


@pytest.fixture
def batch(tmp_path: Path) -> str:
    (tmp_path / "submissions").mkdir()
    for token in ("260101-101010-aaaaaa", "260101-101010-aaaaaa.7-0"):
        (tmp_path / "submissions" / f"{token}.jsonl").touch()
    return str(tmp_path)


OURS = ("gridiron-260101-101010-aaaaaa-0", "gridiron-260101-101010-aaaaaa.7-0-0")


def test_only_jobs_of_this_batch_are_counted(batch: str) -> None:
    others = ("gridiron-260101-101010-bbbbbb-0", "mine", "")
    assert queue_limits.count_queued(batch, queue(*OURS, *others)) == 2
    assert queue_limits.count_queued(batch, client.Queue()) is None


def test_queue_is_queried_once_for_all_free_places(batch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    monkeypatch.setattr(client, "squeue", lambda clusters: looks.append(1) or queue(*OURS, *OURS[:1] * len(looks)))
    room = QueueLimiter(batch, 5, should_wait=False)
    for _ in range(2):
        assert room.acquire(1)
        room.submitted(1)
    assert len(looks) == 1
    assert room.acquire(1)
    room.submitted(1)
    with pytest.raises(QueueFull):
        room.acquire(2)


def test_full_queue_is_queried_every_30_seconds_and_later_every_60(batch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    answers = [client.Queue(), queue(*OURS), queue(*OURS), queue(OURS[0]), queue(*OURS), queue()]
    monkeypatch.setattr(client, "squeue", lambda clusters: answers.pop(0))
    monkeypatch.setattr("time.sleep", pauses.append)
    room = QueueLimiter(batch, 2, should_wait=True)
    for _ in range(2):
        while not room.acquire(1):
            pass
        room.submitted(1)
    assert pauses == [30] * 4
    monkeypatch.setattr(client, "squeue", lambda clusters: queue(*OURS))
    for _ in range(25):
        assert not room.acquire(2)
    assert pauses[4:] == [30] * 20 + [60] * 5


def test_max_queued_without_an_answer_of_squeue_is_an_error(batch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "squeue", lambda clusters: client.Queue())
    with pytest.raises(SlurmError, match="squeue does not answer"):
        QueueLimiter(batch, 2, should_wait=False).acquire(1)


def test_without_a_limit_the_queue_is_not_queried(batch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "squeue", None)
    assert QueueLimiter(batch, None, should_wait=False).acquire(10**6)
