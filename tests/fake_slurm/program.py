"""A stand-in for Slurm's commands, for tests: its state is small files in $FAKE_SLURM, its faults are scripted there.

It starts for each call, so it imports next to nothing (no json, no re). What it does not understand it refuses with
exit 97: a test fails rather than being answered wrongly. docs/testing.md tells how it is used.
"""
from __future__ import annotations

import os
import sys
import time

NAMES = ("sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo", "sacctmgr", "srun")
TEST_ONLY = "sbatch --test-only"  # its calls are counted, and go wrong, apart from those that submit
NOT_SET_UP = 97
SETTINGS = {
    "MaxArraySize": "1001",
    "MaxJobCount": "10000",
    "MaxSubmitJobs": "",  # of the user's association; empty: no limit
    "MaxJobs": "",
    "Rate": "",  # calls of sbatch per second; further ones are refused
    "AccountingDelay": "0",  # seconds by which sacct lags behind
    "Accounts": "root",
    "QOS": "normal",
    # name, CPUs, MB, gres, features; the first partition is the default one
    "Nodes": "node1 8 64000 gpu:2 geforce_rtx_2080\nnode2 8 64000 gpu:2 geforce_rtx_2080\n"
             "node3 8 64000 gpu:2 tesla_v100\nnode4 8 64000 gpu:2 geforce_rtx_3090,a5000",
    "Partitions": "cpu-killable infinite\nkillable infinite\nowner infinite",
}
_FAILED = "sbatch: error: Batch job submission failed: "
_UNSATISFIED = "sbatch: error: Memory specification can not be satisfied\n"
_POLICY = _FAILED + ("Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)")
# what Slurm says, word for word, by the name of what is wrong; sbatch ends with 1
WORDS = {
    "socket_timed_out": _FAILED + "Socket timed out on send/recv operation",
    "unable_to_contact": _FAILED + "Unable to contact slurm controller (connect failure)",
    "zero_bytes": _FAILED + "Zero Bytes were transmitted or received",
    "queue_full": "sbatch: error: Slurm job queue full, sleeping and retrying\n" + _FAILED + (
        "Unable to create job record, try again"),
    "temporarily_unable": "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n" + _FAILED + (
        "Resource temporarily unavailable"),
    "assoc_limit": "sbatch: error: AssocMaxSubmitJobLimit\n" + _POLICY,
    "qos_limit": "sbatch: error: QOSMaxSubmitJobPerUserLimit\n" + _POLICY,
    "policy": _POLICY,
    "invalid_partition": "sbatch: error: invalid partition specified: nope\n" + _FAILED + (
        "Invalid partition name specified"),
    "invalid_feature": _FAILED + "Invalid feature specification",
    "invalid_gres": "sbatch: error: Invalid generic resource (gres) specification",
    "node_config": _FAILED + "Requested node configuration is not available",
    "memory": _UNSATISFIED + _FAILED + (
        "Requested node configuration is not available"),
    "invalid_account": _FAILED + "Invalid account or account/partition combination specified",
    "invalid_qos": _FAILED + "Invalid qos specification",
    "array_spec": _FAILED + "Invalid job array specification",
    "dependency": _FAILED + "Job dependency problem",
    "dos_line_breaks": "sbatch: error: Batch script contains DOS line breaks (\\r\\n)\n"
                       "sbatch: error: instead of expected UNIX line breaks (\\n).",
    "no_shebang": "sbatch: error: This does not look like a batch script.  The first\n"
                  "sbatch: error: line must start with #! followed by the path to an interpreter.\n"
                  "sbatch: error: For instance: #!/bin/sh",
    "empty_script": "sbatch: error: Batch script is empty!",
}
# what stands before the last words when others say them
_PREFIXES = {TEST_ONLY: "allocation failure: ", "squeue": "slurm_load_jobs error: ", "sinfo": "slurm_load_partitions: ",
           "scancel": "scancel: error: Kill job error on job id 1: ", "scontrol": "slurm_load_jobs error: ",
           "sacctmgr": "sacctmgr: error: ", "srun": "srun: error: Unable to allocate resources: "}
_BOOKS_AWAY = ("sacct: error: slurm_persist_conn_open_without_init: failed to open persistent connection to "
               "host:127.0.0.1:6819: Connection refused\nsacct: error: Sending PersistInit msg: Connection refused\n"
               "sacct: error: Problem talking to the database: Connection refused")
_SHORT = {"PENDING": "PD", "RUNNING": "R", "SUSPENDED": "S", "COMPLETING": "CG", "COMPLETED": "CD", "CONFIGURING": "CF",
          "CANCELLED": "CA", "FAILED": "F", "TIMEOUT": "TO", "PREEMPTED": "PR", "NODE_FAIL": "NF", "BOOT_FAIL": "BF",
          "OUT_OF_MEMORY": "OOM", "DEADLINE": "DL", "REQUEUED": "RQ", "REQUEUE_HOLD": "RH", "SPECIAL_EXIT": "SE",
          "REVOKED": "RV", "STOPPED": "ST", "RESV_DEL_HOLD": "RD", "REQUEUE_FED": "RF", "RESIZING": "RS",
          "SIGNALING": "SI", "STAGE_OUT": "SO"}
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL",
         "DEADLINE", "REVOKED")
# x:name=, a value is needed; x:name?, one may be given after =; all that Slurm 22.05's sbatch takes
_SBATCH = """
a:array= A:account= bb= bbf= b:begin= comment= cpu-freq= c:cpus-per-task= d:dependency= deadline= delay-boot= D:chdir=
e:error= export= export-file= get-user-env? gid= gres= gres-flags= H:hold ignore-pbs i:input= J:job-name= k:no-kill?
kill-on-invalid-dep= L:licenses= M:clusters= container= m:distribution= mail-type= mail-user= mcs-label= n:ntasks=
nice? no-requeue ntasks-per-node= N:nodes= o:output= O:overcommit p:partition= parsable power= priority= profile=
propagate? q:qos= Q:quiet reboot requeue s:oversubscribe S:core-spec= signal= spread-job switches= thread-spec=
t:time= time-min= uid= use-min-nodes v:verbose W:wait wckey= wrap= cluster-constraint= contiguous C:constraint=
F:nodefile= mem= mincpus= reservation= tmp= w:nodelist= x:exclude= exclusive? mem-per-cpu= sockets-per-node=
cores-per-socket= threads-per-core= B:extra-node-info= ntasks-per-core= ntasks-per-socket= cpus-per-gpu= G:gpus=
gpu-bind= gpu-freq= gpus-per-node= gpus-per-socket= gpus-per-task= mem-per-gpu= mem-bind= hint= open-mode= test-only
network= ntasks-per-gpu= prefer= tres-per-task= h:help usage V:version"""
_SQUEUE = ("h:noheader me u:user= o:format= r:array j:jobs= t:states= start n:name= p:partition= A:account= a:all"
           " l:long S:sort=")
_SACCT = ("X:allocations n:noheader P:parsable2 p:parsable o:format= j:jobs= S:starttime= E:endtime= u:user= s:state="
          " a:allusers D:duplicates name= units= noconvert")
_SCANCEL = "b:batch f:full s:signal= Q:quiet n:name= jobname= u:user= t:state= me v:verbose p:partition= A:account="
_SINFO = "h:noheader o:format= p:partition= N:Node e:exact"
_SACCTMGR = "n:noheader P:parsable2 p:parsable i:immediate s:associations Q:quiet"


class Said(Exception):
    """Ends the command: what it prints on stderr, and its exit status."""

    def __init__(self, words: str, code: int = 1) -> None:
        super().__init__(words)
        self.words, self.code = words, code


def unknown(what: str) -> Said:
    """For what real Slurm may know and the stand-in does not."""
    return Said(f"the stand-in for Slurm does not know {what}; see tests/fake_slurm/program.py", NOT_SET_UP)


def words_for(name: str, command: str = "sbatch") -> str:
    """Slurm's own words for a fault of WORDS; "accounting_away" and "accounting_disabled" are sacct's."""
    if name in ("accounting_away", "accounting_disabled"):
        return _BOOKS_AWAY if name == "accounting_away" else "Slurm accounting storage is disabled"
    return said_by(command, WORDS[name])


def said_by(command: str, words: str) -> str:
    """sbatch's words as another command has them."""
    if command == "sbatch":
        return words
    words = words.removeprefix(_UNSATISFIED) if command == TEST_ONLY else words
    return words.replace(_FAILED, _PREFIXES.get(command, f"{command}: error: "))


def write(path: str, content: str) -> None:
    """A whole file, by rename."""
    temporary = f"{path}.{os.getpid()}-{time.monotonic_ns()}~"
    with open(temporary, "wb", buffering=0) as file:
        file.write(content.encode("utf-8", "surrogateescape"))
    os.rename(temporary, path)


def read(path: str) -> str:
    """A file's text; empty if there is none."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return ""


def dump(record: dict[str, str]) -> str:
    """A line `key=value` for each; newlines as \\n."""
    return "".join("{}={}\n".format(key, value.replace("\\", "\\\\").replace("\n", "\\n"))
                   for key, value in record.items())


def load(text: str) -> dict[str, str]:
    """What `dump` wrote."""
    pairs = (line.partition("=") for line in text.split("\n") if line)
    return {key: "\\".join(part.replace("\\n", "\n") for part in value.split("\\\\")) for key, _, value in pairs}


def clock(seconds: float) -> str:
    """2:05, 1:00:00 or 2-00:00:00."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}-{hour:02}:{minute:02}:{second:02}"
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def long_clock(seconds: float) -> str:
    """00:02:05, or 2-00:00:00."""
    text = clock(seconds)
    return text if "-" in text else ":".join(part.zfill(2) for part in (["0", *text.split(":")])[-3:])


def stamp(seconds: str, none: str = "N/A") -> str:
    """Unix seconds as Slurm shows a time."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(float(seconds))) if seconds else none


def seconds_of(limit: str) -> str:
    """A time limit (minutes, m:s, h:m:s, d-h, d-h:m, d-h:m:s) in seconds, whole minutes; empty: none. ValueError."""
    if limit.lower() in ("infinite", "unlimited", "0", "-1"):
        return ""
    days, dash, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hour, minute, second = (*parts, 0, 0)[:3]
    else:
        hour, minute, second = {1: (0, *parts, 0), 2: (0, *parts), 3: tuple(parts)}[len(parts)]
    total = ((int(days or 0) * 24 + hour) * 60 + minute) * 60 + second
    return str(-(-total // 60) * 60)


def megabytes(text: str) -> int:
    """8G, 500M or 500 in MB. ValueError."""
    factor = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024 ** 2}.get(text[-1:].upper())
    return int(float(text[:-1]) * factor) if factor else int(text)


def indices(spec: str) -> list[int]:
    """1,3,7-9:2 -> [1, 3, 7, 9]. ValueError."""
    found: list[int] = []
    for part in spec.split(","):
        span, _, step = part.partition(":")
        first, dash, last = span.partition("-")
        part_of = range(int(first), int(last) + 1, int(step or 1)) if dash else [int(first)]
        if not part_of:
            raise ValueError(part)
        found += part_of
    return sorted(set(found))


def span(numbers: list[int]) -> str:
    """[0, 1, 2, 5] -> 0-2,5."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


class Cluster:
    """The state in a folder. A job is a record of strings in jobs/ID; tasks of an array that differ, in jobs/ID_TASK.

    Many processes use it at once: numbers are taken by link(2), which fails where one is taken; records are renamed in.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.settings = load(read(f"{folder}/settings"))

    def take(self, kind: str, content: str, first: int = 1) -> int:
        """The next number of jobs, calls/COMMAND or rules, with its file complete as it appears."""
        temporary = f"{self.folder}/{kind}.{os.getpid()}-{time.monotonic_ns()}~"
        with open(temporary, "wb", buffering=0) as file:
            file.write(content.encode("utf-8", "surrogateescape"))
        number = int(read(f"{self.folder}/{kind}.next") or first)  # a hint
        while True:
            try:
                os.link(temporary, f"{self.folder}/{kind}/{number}")
                break
            except FileExistsError:
                number += 1
        os.unlink(temporary)
        write(f"{self.folder}/{kind}.next", str(number + 1))
        return number

    def numbers(self, kind: str) -> list[int]:
        """The numbers taken so far, in order."""
        return sorted(int(name) for name in os.listdir(f"{self.folder}/{kind}") if name.isdigit())

    def job(self, job: str) -> dict[str, str] | None:
        """A Slurm job, or the task of an array, by either of its ids; None if there is none. An array: its record."""
        master, _, task = job.partition("_")
        record = load(read(f"{self.folder}/jobs/{master}"))
        if "TaskOf" in record:
            return self.job(record["TaskOf"])
        if record:
            record = {"JobId": master, "Task": task, **record}
        if not task or not record:
            return record or None
        own = load(read(f"{self.folder}/jobs/{job}"))
        return {**record, **own} if task in record["Tasks"].split(",") else None

    def update(self, job: str, **changes: str) -> None:
        """Change a job's record, or that of a task alone."""
        path = f"{self.folder}/jobs/{job}"
        write(path, dump({**load(read(path)), **changes}))

    def jobs(self, every_task: bool = True) -> list[dict[str, str]]:
        """All jobs, arrays as their tasks; those that never started as one row with a key Rest unless every_task."""
        names = os.listdir(f"{self.folder}/jobs")
        own: dict[str, list[int]] = {}
        for name in names:
            master, _, task = name.partition("_")
            if task.isdigit():
                own.setdefault(master, []).append(int(task))
        rows: list[dict[str, str]] = []
        for number in sorted(int(name) for name in names if name.isdigit()):
            record = self.job(str(number))
            if record is None or record["JobId"] != str(number):
                continue  # gone, or the second id of an array's task
            if not record["Tasks"]:
                rows.append(record)
                continue
            changed = set(own.get(str(number), ()))
            rest = [int(task) for task in record["Tasks"].split(",") if int(task) not in changed]
            if rest and not every_task:
                rows.append({**record, "Rest": span(rest) + (f"%{record['Throttle']}" if record["Throttle"] else "")})
            elif rest:
                rows += [{**record, "Task": str(task)} for task in rest]
            for index in sorted(changed):
                row = self.job(f"{number}_{index}")
                if row is not None:
                    rows.append(row)
        return rows

    def forecast(self, job: dict[str, str]) -> str:
        """Of the job's dependencies: "met", "waiting", or "never" for those that cannot be met any more."""
        answers = []
        any_will_do = "?" in job["Dependency"]
        for part in filter(None, job["Dependency"].replace("?", ",").split(",")):
            kind, *ids = part.split(":")
            for one in ids:
                wanted = f"{one}_{job['Task']}" if kind == "aftercorr" and job["Task"] else one.partition("+")[0]
                answers.append(_forecast(kind, [row["State"] for row in self.tasks(wanted)]))
            if kind == "singleton":
                others = [row for row in self.jobs() if row["JobName"] == job["JobName"]
                          and int(row["JobId"]) < int(job["JobId"]) and row["State"] not in ENDED]
                answers.append("waiting" if others else "met")
        if any_will_do and "met" in answers:
            return "met"
        for word in ("waiting", "never") if any_will_do else ("never", "waiting"):
            if word in answers:
                return word
        return "met"

    def tasks(self, job: str) -> list[dict[str, str]]:
        """A job, or all tasks of an array; empty if the controller knows none."""
        record = self.job(job)
        if record is None or record.get("Forgotten"):
            return []
        if not record["Tasks"] or record["Task"]:
            return [record]
        found = (self.job(f"{record['JobId']}_{task}") for task in record["Tasks"].split(","))
        return [row for row in found if row is not None]

    def reason(self, job: dict[str, str]) -> str:
        """Why a job is pending; None for others."""
        if job["Reason"] or job["State"] != "PENDING":
            return job["Reason"] or "None"
        return {"never": "DependencyNeverSatisfied", "waiting": "Dependency"}.get(self.forecast(job), "Priority")

    def nodes(self) -> list[list[str]]:
        """Name, CPUs, MB, gres and features of each node."""
        return [line.split() for line in self.settings["Nodes"].split("\n")]

    def partitions(self) -> list[list[str]]:
        """Name and time limit of each partition."""
        return [line.split() for line in self.settings["Partitions"].split("\n")]


def _forecast(kind: str, states: list[str]) -> str:
    ended = [state for state in states if state in ENDED]
    failed = [state for state in ended if state != "COMPLETED"]
    if kind == "after":
        return "waiting" if "PENDING" in states else "met"
    if kind in ("afterok", "aftercorr") and failed or kind == "afternotok" and states and not failed and (
            len(ended) == len(states)):
        return "never"
    if kind == "afternotok" and failed:
        return "met" if len(ended) == len(states) else "waiting"
    return "met" if len(ended) == len(states) else "waiting"


def name_of(job: dict[str, str]) -> str:
    """12, 12_3, or 12_[4-9%2]."""
    if job.get("Rest"):
        return f"{job['JobId']}_[{job['Rest']}]"
    return f"{job['JobId']}_{job['Task']}" if job["Task"] else job["JobId"]


def parse(command: str, table: str, words: list[str], stop: bool = False) -> tuple[dict[str, str], list[str]]:
    """Options by their long names, and the other words, as getopt_long does it. stop: at the first other word."""
    short, kinds = {}, {}
    for entry in table.split():
        letter, _, name = entry.rpartition(":")
        kinds[name.rstrip("=?")] = name[-1] if name[-1] in "=?" else ""
        short[letter] = name.rstrip("=?")
    found: dict[str, str] = {}
    others: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word == "--":
            return found, others + queue
        if not word.startswith("-") or word == "-":
            others.append(word)
            if stop:
                return found, others + queue
            continue
        if word.startswith("--"):
            given, equals, value = word[2:].partition("=")
            name = _long_name(command, given, kinds, word)
        else:
            if word[1] not in short:
                raise _misspelt(command, f"invalid option -- '{word[1]}'")
            name, rest = short[word[1]], word[2:]
            equals, value = ("=", rest.removeprefix("=")) if rest and kinds[name] else ("", "")
            if rest and not kinds[name]:
                queue.insert(0, f"-{rest}")
        if kinds[name] == "=" and not equals:
            if not queue:
                raise _misspelt(command, f"option '--{name}' requires an argument" if word.startswith("--") else
                                f"option requires an argument -- '{word[1]}'")
            value = queue.pop(0)
        elif equals and not kinds[name]:
            raise _misspelt(command, f"option '--{name}' doesn't allow an argument")
        found[name] = value
    return found, others


def _long_name(command: str, given: str, kinds: dict[str, str], word: str) -> str:
    names = [given] if given in kinds else sorted(name for name in kinds if name.startswith(given))
    if len(names) > 1:
        raise _misspelt(command, f"option '{word}' is ambiguous; possibilities: " + " ".join(
            f"'--{name}'" for name in names))
    if not names:
        raise _misspelt(command, f"unrecognized option '{word}'")
    return names[0]


def _misspelt(command: str, words: str) -> Said:
    if command != "sbatch" and not words.startswith("option"):
        return unknown(f"{command}'s {words}")  # Slurm may: only sbatch's options are all known here
    return Said(f'{command}: {words}\nTry "{command} --help" for more information', 255 if command == "sbatch" else 1)


def split_line(line: str) -> list[str]:
    """The words of a #SBATCH line: quotes and backslashes as in a shell, # begins a comment."""
    words, word, quote, position = [], None, "", 0
    while position < len(line):
        letter = line[position]
        position += 1
        if quote:
            if letter == quote:
                quote = ""
                continue
        elif letter in "'\"":
            quote, word = letter, word or ""
            continue
        elif letter == "\\" and position < len(line):
            letter = line[position]
            position += 1
        elif letter.isspace():
            if word is not None:
                words.append(word)
            word = None
            continue
        elif letter == "#" and word is None:
            break
        word = (word or "") + letter
    return words if word is None else [*words, word]


def directives(script: str) -> list[str]:
    """The words of a script's #SBATCH lines, up to its first command."""
    words: list[str] = []
    for line in script.split("\n"):
        if line.startswith("#SBATCH"):
            words += split_line(line[7:])
        elif line.strip() and not line.startswith("#"):
            break
    return words


def read_script(options: dict[str, str], words: list[str]) -> str:
    """The script that sbatch was given. Said if it would not take it for one."""
    if "wrap" in options:
        if words:
            raise Said("sbatch: error: Script arguments not permitted with --wrap option")
        return f"#!/bin/sh\n# This script was created by sbatch --wrap.\n\n{options['wrap']}\n"
    if words and not os.path.isfile(words[0]):
        raise Said(f"sbatch: error: Unable to open file {words[0]}")
    script = read(words[0]) if words else sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
    if not script.strip():
        raise Said(WORDS["empty_script"])
    if not script.startswith("#!"):
        raise Said(WORDS["no_shebang"])
    if "\r\n" in script:
        raise Said(WORDS["dos_line_breaks"])
    return script


def sbatch(cluster: Cluster, words: list[str], call: int) -> str:
    options, rest = parse("sbatch", _SBATCH, words, stop=True)
    if "version" in options or "help" in options or "usage" in options:
        return "slurm 22.05.8\n" if "version" in options else "Usage: sbatch [OPTIONS(0)...] script(0) [args(0)...]\n"
    script = read_script(options, rest)
    options = {**parse("sbatch", _SBATCH, directives(script))[0], **options}
    job = new_job(cluster, options, rest, call)
    if "test-only" in options:
        number = cluster.take("jobs", "")  # it uses up an id
        os.unlink(f"{cluster.folder}/jobs/{number}")
        raise Said(f"sbatch: Job {number} to start at {stamp(str(time.time()))} using {job['CPUs']} processors on "
                   f"nodes {cluster.nodes()[0][0]} in partition {job['Partition']}", 0)
    os.mkdir(f"{cluster.folder}/scripts/{call}")
    write(f"{cluster.folder}/scripts/{call}/slurm_script", script)
    number = cluster.take("jobs", dump(job))
    check_limits(cluster, number)
    if "parsable" in options:
        return f"{number}\n"
    return "" if "quiet" in options else f"Submitted batch job {number}\n"


def new_job(cluster: Cluster, options: dict[str, str], words: list[str], call: int) -> dict[str, str]:
    """The record of a pending job. Said if Slurm would refuse it."""
    get = options.get
    try:
        limit = seconds_of(get("time", "unlimited"))
    except (ValueError, KeyError):
        raise Said("sbatch: error: Invalid --time specification", 255) from None
    for kind in ("mem", "mem-per-cpu", "mem-per-gpu"):
        try:
            megabytes(get(kind, "0"))
        except ValueError:
            raise Said(f"sbatch: error: Invalid --{kind} specification", 255) from None
    partition = get("partition", cluster.partitions()[0][0])
    check_resources(cluster, options, partition)
    tasks, _, throttle = get("array", "").partition("%")
    try:
        numbers = indices(tasks) if "array" in options else []
    except ValueError:
        raise Said(WORDS["array_spec"]) from None
    if numbers and not 0 <= numbers[0] <= numbers[-1] < int(cluster.settings["MaxArraySize"]):
        raise Said(WORDS["array_spec"])
    dependency = get("dependency", "")
    for part in filter(None, dependency.replace("?", ",").split(",")):
        kind, *ids = part.split(":")
        if kind not in ("after", "afterany", "afterok", "afternotok", "aftercorr", "singleton") or (
                kind != "singleton") != bool(ids):
            raise Said(WORDS["dependency"])
    folder = os.path.abspath(get("chdir", os.getcwd()))
    name = "wrap" if "wrap" in options else os.path.basename(words[0]) if words else "sbatch"
    cpus = int(get("cpus-per-task", 1)) * int(get("ntasks", 1))
    return {"State": "PENDING", "Reason": "JobHeldUser" if "hold" in options else "", "Tasks": ",".join(
                map(str, numbers)), "Throttle": throttle, "JobName": get("job-name", name), "Partition": partition,
            "Submit": str(time.time()), "Start": "", "End": "", "ExitCode": "0:0", "Restarts": "0", "Pid": "",
            "Comment": get("comment", ""), "TimeLimit": limit, "User": user(), "Account": get("account", "root"),
            "QOS": get("qos", "normal"), "Nodes": get("nodes", "1").partition("-")[0], "CPUs": str(cpus),
            "CPUsPerTask": get("cpus-per-task", ""), "NumTasks": get("ntasks", ""), "Mem": get("mem", ""),
            "Gres": get("gres", ""), "GPUs": get("gpus", ""), "Features": get("constraint", ""), "MaxRSS": "",
            "Dependency": dependency, "KillOnInvalid": "1" if get("kill-on-invalid-dep") == "yes" else "",
            "Requeue": "0" if "no-requeue" in options else "1", "Output": get("output", ""), "NodeList": "",
            "Error": get("error", ""), "OpenMode": get("open-mode", "truncate"), "WorkDir": folder,
            "Command": os.path.abspath(words[0]) if words else "", "Args": "\0".join(words[1:]), "Call": str(call),
            "Export": get("export", "ALL"), "SubmitDir": os.getcwd(),
            "Options": "\0".join(f"{key}={value}" for key, value in options.items())}


def user() -> str:
    """The user's name, as squeue and sacct show it."""
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def check_resources(cluster: Cluster, options: dict[str, str], partition: str) -> None:
    """Said unless the cluster has what is asked for. Constraints and gres are matched by name alone."""
    nodes = cluster.nodes()
    for name in partition.split(","):
        if name not in [row[0] for row in cluster.partitions()]:
            raise Said(WORDS["invalid_partition"].replace("nope", partition))
    features = {feature for row in nodes for feature in row[4].split(",")}
    wanted = options.get("constraint", "")
    for mark in "[]()&|*":
        wanted = wanted.replace(mark, ",")
    if not {word for word in wanted.split(",") if not word.isdigit()} <= {"", *features}:
        raise Said(WORDS["invalid_feature"])
    gres = {one.partition(":")[0] for row in nodes for one in row[3].split(",")}
    if not {one.partition(":")[0] for one in options.get("gres", "").split(",")} <= {"", "none", *gres}:
        raise Said(WORDS["invalid_gres"])
    if megabytes(options.get("mem", "0")) > max(int(row[2]) for row in nodes):
        raise Said(WORDS["memory"])
    gpus = sum(int(one.rpartition(":")[2]) for row in nodes for one in row[3].split(",") if one.startswith("gpu:"))
    if int(options.get("gpus", "0").rpartition(":")[2]) > gpus:
        raise Said(WORDS["node_config"])
    for option, setting, words in (("account", "Accounts", "invalid_account"), ("qos", "QOS", "invalid_qos")):
        if options.get(option, "") not in ("", *cluster.settings[setting].split(",")):
            raise Said(WORDS[words])


def check_limits(cluster: Cluster, number: int) -> None:
    """Take the job back, and Said, if there are now more than may be. Never more, whoever submits at once."""
    for setting, words in (("MaxSubmitJobs", "assoc_limit"), ("MaxJobCount", "temporarily_unable")):
        limit = cluster.settings[setting]
        if limit and number >= int(limit) or setting == "MaxSubmitJobs" and limit:
            alive = [job for job in cluster.jobs() if job["State"] not in ENDED and not job.get("Forgotten")]
            if len(alive) > int(limit):
                os.unlink(f"{cluster.folder}/jobs/{number}")
                raise Said(WORDS[words])


def pad(text: str, width: str) -> str:
    """A cell of %WIDTHx or %.WIDTHx: cut, and aligned to the left or the right."""
    if not width:
        return text
    size = int(width.lstrip("."))
    return (text.rjust(size) if width[0] == "." else text.ljust(size))[:size]


def fill(format_: str, letters: dict, row: object, command: str) -> str:
    """A line of squeue's or sinfo's --format for a row, or its header for None."""
    line, position = "", 0
    while position < len(format_):
        if format_[position] != "%":
            line += format_[position]
            position += 1
            continue
        end = position + 1
        while format_[end:end + 1] in tuple(".0123456789"):
            end += 1
        letter = format_[end:end + 1]
        if letter not in letters:
            raise unknown(f"{command} --format=%{letter}")
        header, value = letters[letter]
        line += pad(header if row is None else value(row), format_[position + 1:end])
        position = end + 1
    return line


def _elapsed(job: dict[str, str]) -> float:
    return float(job["End"] or time.time()) - float(job["Start"]) if job["Start"] else 0.0


def _left(job: dict[str, str]) -> str:
    return clock(max(0, int(job["TimeLimit"]) - _elapsed(job))) if job["TimeLimit"] else "UNLIMITED"


def _end(job: dict[str, str]) -> str:
    if job["End"] or not job["Start"]:
        return stamp(job["End"])
    return stamp(str(float(job["Start"]) + int(job["TimeLimit"]))) if job["TimeLimit"] else "NONE"


def command_of(job: dict[str, str]) -> str:
    """The script and its arguments."""
    return " ".join([job["Command"] or "(null)", *filter(None, job["Args"].split("\0"))])


def squeue_letters(cluster: Cluster) -> dict:
    """Of --format: each letter's header, and how its cell is made from a job."""
    def where(job: dict[str, str]) -> str:
        return job["NodeList"] if job["State"] == "RUNNING" else f"({cluster.reason(job)})"

    key = lambda name, none="": lambda job: job[name] or none  # noqa: E731
    return {
        "i": ("JOBID", name_of), "A": ("JOBID", lambda job: job.get("RawId") or job["JobId"]),
        "F": ("ARRAY_JOB_ID", key("JobId")),
        "K": ("ARRAY_TASK_ID", lambda job: job.get("Rest") or job["Task"] or "N/A"),
        "T": ("STATE", key("State")), "t": ("ST", lambda job: _SHORT.get(job["State"], job["State"])),
        "r": ("REASON", cluster.reason), "R": ("NODELIST(REASON)", where), "k": ("COMMENT", key("Comment", "(null)")),
        "V": ("SUBMIT_TIME", lambda job: stamp(job["Submit"])), "j": ("NAME", key("JobName")),
        "S": ("START_TIME", lambda job: stamp(job["Start"] or job.get("ExpectedStart", ""))), "e": ("END_TIME", _end),
        "M": ("TIME", lambda job: clock(_elapsed(job))), "L": ("TIME_LEFT", _left),
        "l": ("TIME_LIMIT", lambda job: clock(int(job["TimeLimit"])) if job["TimeLimit"] else "UNLIMITED"),
        "P": ("PARTITION", key("Partition")), "u": ("USER", key("User")), "a": ("ACCOUNT", key("Account")),
        "q": ("QOS", key("QOS")), "N": ("NODELIST", key("NodeList")), "D": ("NODES", key("Nodes")),
        "C": ("CPUS", key("CPUs")), "E": ("DEPENDENCY", key("Dependency", "(null)")), "Z": ("WORK_DIR", key("WorkDir")),
        "o": ("COMMAND", command_of), "f": ("FEATURES", key("Features", "(null)")),
        "Q": ("PRIORITY", lambda job: "1"), "Y": ("SCHEDNODES", lambda job: "(null)"),
        "B": ("EXEC_HOST", key("NodeList", "n/a")), "b": ("TRES_PER_NODE", key("Gres", "N/A"))}


def squeue(cluster: Cluster, words: list[str], call: int) -> str:
    options, _ = parse("squeue", _SQUEUE, words)
    letters = squeue_letters(cluster)
    default = "%.18i %.9P %.8j %.8u %.2t %.10M %.6D %R"
    if "start" in options:
        default = "%.18i %.9P %.8j %.8u %.2t %.19S %.6D %20Y %R"
    rows = [job for job in cluster.jobs("array" in options) if not job.get("Forgotten")]
    if "jobs" in options:
        ids = options["jobs"].split(",")
        rows = [job for job in rows if _named(job, ids)]
        if not rows and len(ids) == 1:
            raise Said("slurm_load_jobs error: Invalid job id specified")
    rows = _of_states(rows, options.get("states", "PENDING" if "start" in options else "RUNNING,PENDING,SUSPENDED,"
                                        "COMPLETING,CONFIGURING,REQUEUED,REQUEUE_HOLD,STOPPED,SPECIAL_EXIT"))
    for option, key in (("user", "User"), ("name", "JobName"), ("partition", "Partition"), ("account", "Account")):
        if option in options:
            rows = [job for job in rows if job[key] in options[option].split(",")]
    if "me" in options:
        rows = [job for job in rows if job["User"] == user()]
    lines = [fill(options.get("format", default), letters, job, "squeue")
             for job in ([] if "noheader" in options else [None]) + rows]
    return "".join(f"{line}\n" for line in lines)


def _named(job: dict[str, str], ids: list[str]) -> bool:
    return any(one in ids for one in (name_of(job), job["JobId"], job.get("RawId")))


def _of_states(rows: list[dict[str, str]], states: str) -> list[dict[str, str]]:
    wanted = states.upper().split(",")
    long_names = {short: state for state, short in _SHORT.items()}
    for state in wanted:
        if state not in (*_SHORT, *long_names, "ALL"):
            raise Said(f"squeue: error: Invalid job state specified: {state}")
    return [job for job in rows if "ALL" in wanted or job["State"] in [long_names.get(one, one) for one in wanted]]


def _cancelled_by(job: dict[str, str]) -> str:
    return f"CANCELLED by {os.getuid()}" if job["State"] == "CANCELLED" else job["State"]


_SACCT_FIELDS = {
    "jobid": ("JobID", name_of), "jobidraw": ("JobIDRaw", lambda job: job.get("RawId") or job["JobId"]),
    "jobname": ("JobName", lambda job: job["JobName"]), "state": ("State", _cancelled_by),
    "partition": ("Partition", lambda job: job["Partition"]), "account": ("Account", lambda job: job["Account"]),
    "user": ("User", lambda job: job["User"]), "qos": ("QOS", lambda job: job["QOS"]),
    "exitcode": ("ExitCode", lambda job: job["ExitCode"]), "submit": ("Submit", lambda job: stamp(job["Submit"])),
    "start": ("Start", lambda job: stamp(job["Start"], "Unknown")),
    "end": ("End", lambda job: stamp(job["End"], "Unknown")),
    "elapsed": ("Elapsed", lambda job: long_clock(_elapsed(job))),
    "elapsedraw": ("ElapsedRaw", lambda job: str(int(_elapsed(job)))),
    "timelimit": ("Timelimit", lambda job: long_clock(int(job["TimeLimit"])) if job["TimeLimit"] else "UNLIMITED"),
    "timelimitraw": ("TimelimitRaw", lambda job: str(int(job["TimeLimit"]) // 60) if job["TimeLimit"] else ""),
    "alloctres": ("AllocTRES", lambda job: job.get("AllocTRES") or f"cpu={job['CPUs']},node={job['Nodes']}"),
    "tresusageintot": ("TRESUsageInTot", lambda job: job.get("TRESUsageInTot", "") if job.get("Step") else ""),
    "maxrss": ("MaxRSS", lambda job: ""), "comment": ("Comment", lambda job: job["Comment"]),
    "nodelist": ("NodeList", lambda job: job["NodeList"] or "None assigned"),
    "alloccpus": ("AllocCPUS", lambda job: job["CPUs"]), "reqcpus": ("ReqCPUS", lambda job: job["CPUs"]),
    "ncpus": ("NCPUS", lambda job: job["CPUs"]), "nnodes": ("NNodes", lambda job: job["Nodes"]),
    "reqmem": ("ReqMem", lambda job: job["Mem"]), "workdir": ("WorkDir", lambda job: job["WorkDir"]),
    "cputimeraw": ("CPUTimeRAW", lambda job: str(int(_elapsed(job)) * int(job["CPUs"]))),
    "totalcpu": ("TotalCPU", lambda job: job.get("TotalCPU") or "00:00:00"),
    "reason": ("Reason", lambda job: job["Reason"] or "None")}
_SACCT_WIDTHS = {"jobid": 12, "exitcode": 8, "state": 10, "nodelist": 15, "start": 19, "end": 19, "submit": 19}


def sacct(cluster: Cluster, words: list[str], call: int) -> str:
    options, _ = parse("sacct", _SACCT, words)
    fields = [field.strip().lower() for field in options.get(
        "format", "JobID,JobName,Partition,Account,AllocCPUS,State,ExitCode").split(",") if field.strip()]
    for field in fields:
        if field.partition("%")[0] not in _SACCT_FIELDS:
            if field.isalpha() and field.startswith(("tres", "alloc", "ave", "max", "min", "cons", "req", "cpu")):
                raise unknown(f"sacct's field {field}")
            raise Said(f'sacct: error: Invalid field requested: "{field}"')
    now = time.time() - float(cluster.settings["AccountingDelay"])
    rows = [seen for job in cluster.jobs(every_task=False) if (seen := _as_of(job, now))]
    if "jobs" in options:
        rows = [job for job in rows if _named(job, options["jobs"].split(","))]
    since = _since(options.get("starttime", ""))
    rows = [job for job in rows if not job["End"] or stamp(job["End"]) >= since]
    if "state" in options:
        rows = _of_states(rows, options["state"])
    elif "jobs" not in options:  # a job whose dependencies were never met is shown to those alone who ask for it
        rows = [job for job in rows if job["State"] != "CANCELLED" or job["Start"] or not job["Dependency"]]
    if "name" in options:
        rows = [job for job in rows if job["JobName"] in options["name"].split(",")]
    cells = [[_SACCT_FIELDS[field.partition("%")[0]][1](job) for field in fields] for job in (
        rows if "allocations" in options else [step for job in rows for step in _with_batch_step(job)])]
    header = [_SACCT_FIELDS[field.partition("%")[0]][0] for field in fields]
    if "allocations" not in options and "maxrss" in fields:
        column = fields.index("maxrss")
        steps = [step for job in rows for step in _with_batch_step(job)]
        for line, step in zip(cells, steps, strict=True):
            line[column] = step["MaxRSS"] if step.get("Step") else ""
    return _table(header, cells, fields, options)


def _table(header: list[str], cells: list[list[str]], fields: list[str], options: dict[str, str]) -> str:
    """Rows as sacct and sacctmgr print them: between bars, or in columns."""
    body = cells if "noheader" in options else [header, *cells]
    if "parsable2" in options or "parsable" in options:
        return "".join("|".join(line) + ("|\n" if "parsable" in options else "\n") for line in body)
    widths = [int(field.partition("%")[2] or _SACCT_WIDTHS.get(field, 10)) for field in fields]
    if "noheader" not in options:
        body.insert(1, ["-" * width for width in widths])

    def cell(text: str, width: int, field: str) -> str:
        text = text if len(text) <= width else f"{text[:width - 1]}+"
        return text.ljust(width) if field == "jobid" else text.rjust(width)

    return "".join(" ".join(map(cell, line, widths, fields)) + " \n" for line in body)


def _as_of(job: dict[str, str], then: float) -> dict[str, str] | None:
    """A job as it was at a time; None before it was submitted."""
    if float(job["Submit"]) > then:
        return None
    if job["Start"] and float(job["Start"]) > then:
        return {**job, "State": "PENDING", "Start": "", "End": "", "ExitCode": "0:0", "NodeList": ""}
    if job["End"] and float(job["End"]) > then:
        return {**job, "State": "RUNNING" if job["Start"] else "PENDING", "End": "", "ExitCode": "0:0"}
    return job


def _with_batch_step(job: dict[str, str]) -> list[dict[str, str]]:
    if not job["Start"]:
        return [job]
    step = {**job, "JobId": name_of(job) + ".batch", "Task": "", "JobName": "batch", "Partition": "", "User": "",
            "Comment": "", "Step": "batch"}
    return [job, step]


def _since(text: str) -> str:
    """sacct's --starttime as a prefix of an ISO time, which sorts as text. Today if empty."""
    if text[:4].isdigit() and text[4:5] == "-":
        return text
    if text.startswith("now"):
        number, units = text[4:].rstrip("adehinorsuytw"), text[4:].lstrip("0123456789")
        unit = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "": 1}.get(units[:1])
        if text == "now" or text[3:4] == "-" and number.isdigit() and unit:
            return stamp(str(time.time() - int(number or 0) * (unit or 0)))
    if text in ("", "today", "midnight"):
        return time.strftime("%Y-%m-%dT00:00:00")
    raise unknown(f"sacct --starttime={text}")


def scontrol(cluster: Cluster, words: list[str], call: int) -> str:
    options, words = parse("scontrol", "o:oneliner Q:quiet d:details", words)
    verb, *words = words or [""]
    if verb == "show" and words[0] == "config":
        values = {"ClusterName": "fake", "MaxArraySize": "", "MaxJobCount": "", "MinJobAge": "300 sec",
                  "SLURM_VERSION": "22.05.8"}
        return f"Configuration data as of {stamp(str(time.time()))}\n" + "".join(
            f"{key:<23} = {value or cluster.settings[key]}\n" for key, value in values.items())
    if verb == "show" and words[0].partition("=")[0] in ("job", "jobid"):
        jobs = _ids([words[0].partition("=")[2] or (words[1] if words[1:] else "")])
        rows = [row for job in jobs for row in cluster.tasks(job)] if jobs != [""] else cluster.jobs()
        if jobs != [""] and not rows:
            raise Said("slurm_load_jobs error: Invalid job id specified")
        texts = [_show_job(cluster, row) for row in rows]
        return "".join(text.replace("\n   ", " ") + "\n" if "oneliner" in options else f"{text}\n\n" for text in texts)
    if verb == "ping":
        return f"Slurmctld(primary) at {os.uname().nodename} is UP\n"
    if verb in ("requeue", "hold", "release", "requeuehold"):
        for job in _ids(words):
            _change(cluster, job, verb)
        return ""
    if verb == "update":
        changes = dict(word.partition("=")[::2] for word in words)
        changes = {key.lower(): value for key, value in changes.items()}
        known = {"comment": "Comment", "jobname": "JobName", "name": "JobName", "starttime": "", "priority": "",
                 "partition": "Partition", "timelimit": "TimeLimit", "dependency": "Dependency", "requeue": "Requeue",
                 "arraytaskthrottle": "Throttle", "nice": ""}
        job = changes.pop("jobid", changes.pop("job", ""))
        record = known_job(cluster, job)
        for key, value in changes.items():
            if key not in known:
                raise unknown(f"scontrol update {key}")
            if known[key]:
                cluster.update(name_of(record), **{known[key]: seconds_of(value) if key == "timelimit" else value})
        if "starttime" in changes or changes.get("priority", "0") != "0":
            cluster.update(name_of(record), Reason="")
        return ""
    raise unknown(f"scontrol {verb} {' '.join(words)}")


def known_job(cluster: Cluster, job: str) -> dict[str, str]:
    """A job that the controller knows. Said otherwise."""
    record = cluster.job(job)
    if record is None or record.get("Forgotten"):
        raise Said(f"Invalid job id specified for job {job}")
    return record


def _change(cluster: Cluster, job: str, verb: str) -> None:
    record = known_job(cluster, job)
    name = name_of(record)
    if verb in ("hold", "release"):
        cluster.update(name, Reason="JobHeldUser" if verb == "hold" else "")
        return
    if record["Requeue"] == "0":
        raise Said(f"Requested operation is presently disabled for job {job}")
    if record["State"] == "PENDING":
        raise Said(f"Job is pending execution for job {job}")
    requeue(cluster, name, reason="BeginTime" if verb == "requeue" else "JobHeldUser")


def requeue(cluster: Cluster, name: str, reason: str = "", kill: bool = True) -> None:
    """Put a job back into the queue; its process is told to end unless `kill` is False."""
    record = cluster.job(name)
    assert record is not None
    cluster.update(name, State="PENDING", Reason=reason, Start="", End="", Pid="", NodeList="", ExitCode="0:0",
                   PreemptTime="", Restarts=str(int(record["Restarts"]) + 1))
    if kill and record["Pid"]:
        end_process(int(record["Pid"]))


def end_process(pid: int) -> None:
    """CONT and TERM to a job's process group, as Slurm ends jobs; KILL comes from whoever started it."""
    for number in (18, 15):
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            return


def _show_job(cluster: Cluster, job: dict[str, str]) -> str:
    array = f"ArrayJobId={job['JobId']} ArrayTaskId={job['Task']} " if job["Tasks"] else ""
    if array and job["Throttle"]:
        array += f"ArrayTaskThrottle={job['Throttle']} "
    limit = long_clock(int(job["TimeLimit"])) if job["TimeLimit"] else "UNLIMITED"
    end = _end(job)
    lines = [
        f"JobId={job.get('RawId') or job['JobId']} {array}JobName={job['JobName']}",
        f"UserId={job['User']}({os.getuid()}) GroupId={os.getgid()} MCS_label=N/A",
        f"Priority={0 if job['Reason'] == 'JobHeldUser' else 1} Nice=0 Account={job['Account']} QOS={job['QOS']}",
        f"JobState={job['State']} Reason={cluster.reason(job)} Dependency={job['Dependency'] or '(null)'}",
        f"Requeue={job['Requeue']} Restarts={job['Restarts']} BatchFlag=1 Reboot=0 ExitCode={job['ExitCode']}",
        f"RunTime={long_clock(_elapsed(job))} TimeLimit={limit} TimeMin=N/A",
        f"SubmitTime={stamp(job['Submit'])} EligibleTime={stamp(job['Submit'])}",
        f"StartTime={stamp(job['Start'], 'Unknown')} EndTime={'Unknown' if end in ('N/A', 'NONE') else end} "
        "Deadline=N/A",
        f"PreemptEligibleTime={stamp(job['Start'], 'Unknown')} PreemptTime={stamp(job.get('PreemptTime', ''), 'None')}",
        f"Partition={job['Partition']}", f"NodeList={job['NodeList']}",
        f"NumNodes={job['Nodes']} NumCPUs={job['CPUs']} NumTasks={job['NumTasks'] or 1} "
        f"CPUs/Task={job['CPUsPerTask'] or 1}",
        f"Features={job['Features'] or '(null)'}",
        f"Command={command_of(job)}",
        f"WorkDir={job['WorkDir']}", *([f"Comment={job['Comment']} "] if job["Comment"] else []),
        f"StdErr={output_path(job, 'Error')}", "StdIn=/dev/null", f"StdOut={output_path(job, 'Output')}", "Power="]
    return "\n   ".join(lines)


def output_path(job: dict[str, str], which: str = "Output") -> str:
    """Where the job writes; stderr goes with stdout unless it has a file of its own."""
    pattern = job[which] or job["Output"] or ("slurm-%A_%a.out" if job["Tasks"] else "slurm-%j.out")
    raw = job.get("RawId") or job["JobId"]
    values = {"j": raw, "J": raw, "A": job["JobId"], "a": job["Task"] or "4294967294", "x": job["JobName"],
              "u": job["User"], "N": job["NodeList"].partition(",")[0], "n": "0", "t": "0", "s": "batch", "%": "%"}
    if "\\" in pattern:  # Slurm replaces nothing then
        return os.path.join(job["WorkDir"], pattern.replace("\\", ""))
    path, rest = "", pattern
    while "%" in rest:
        before, _, rest = rest.partition("%")
        tail = rest.lstrip("0123456789")
        width, letter = rest[:len(rest) - len(tail)], tail[:1]
        known = letter in values
        path += before + (values[letter].zfill(int(width or 0)) if known else f"%{width}{letter}")
        rest = tail[1:]
    return os.path.join(job["WorkDir"], path + rest)


def _ids(words: list[str]) -> list[str]:
    """12, 12_3 and 12_[1-3,5] one by one; words may hold several, with commas between."""
    found: list[str] = []
    for word in words:
        master, _, tasks = word.partition("_[")
        if tasks:
            found += [f"{master}_{task}" for task in indices(tasks.rstrip("]"))]
        else:
            found += word.split(",")
    return found


def scancel(cluster: Cluster, words: list[str], call: int) -> str:
    options, ids = parse("scancel", _SCANCEL, words)
    for job in _ids(ids):
        if not job.replace("_", "", 1).isdigit():
            raise Said(f"scancel: error: Invalid job id {job}")
    if ids:
        rows = [row for job in _ids(ids) for row in cluster.tasks(job)]
    elif set(options) & {"user", "me", "name", "jobname", "state", "partition", "account"}:
        rows = [row for row in cluster.jobs() if not row.get("Forgotten")]
    else:
        raise Said("scancel: error: No job identification provided")
    for option, key in (("name", "JobName"), ("jobname", "JobName"), ("user", "User"), ("partition", "Partition"),
                        ("account", "Account")):
        rows = [row for row in rows if row[key] == options.get(option, row[key])]
    rows = _of_states(rows, options.get("state", "all"))
    for row in rows:
        if row["State"] not in ENDED:
            cancel(cluster, row, options)
    return ""


def cancel(cluster: Cluster, row: dict[str, str], options: dict[str, str]) -> None:
    """End a job, or send the signal of --signal."""
    if "signal" in options and options["signal"].upper().removeprefix("SIG") not in ("KILL", "9"):
        import signal

        name = options["signal"].upper().removeprefix("SIG")
        number = int(name) if name.isdigit() else int(getattr(signal, f"SIG{name}"))
        if not {"batch", "full"} & set(options):
            raise unknown("scancel --signal without --batch or --full (which reach the script, and all of the job)")
        if row["Pid"]:
            (os.killpg if "full" in options else os.kill)(int(row["Pid"]), number)
        return
    now = str(time.time())
    cluster.update(name_of(row), State="CANCELLED", End=now, Reason="", ExitCode="0:15" if row["Start"] else "0:0")
    if row["Pid"]:
        end_process(int(row["Pid"]))


def sinfo(cluster: Cluster, words: list[str], call: int) -> str:
    options, _ = parse("sinfo", _SINFO, words)
    partitions, default = cluster.partitions(), cluster.partitions()[0][0]
    if "partition" in options:
        partitions = [row for row in partitions if row[0] in options["partition"].split(",")]
    key = lambda index: lambda row: row[index]  # noqa: E731
    # a row: partition, limit, node name, CPUs, MB, gres, features
    letters = {"R": ("PARTITION", key(0)), "P": ("PARTITION", lambda row: row[0] + "*" * (row[0] == default)),
               "l": ("TIMELIMIT", key(1)), "a": ("AVAIL", lambda row: "up"), "c": ("CPUS", key(3)),
               "m": ("MEMORY", key(4)), "G": ("GRES", key(5)), "f": ("AVAIL_FEATURES", key(6)),
               "b": ("ACTIVE_FEATURES", key(6)), "t": ("STATE", lambda row: "idle"), "T": ("STATE", lambda row: "idle"),
               "D": ("NODES", lambda row: "\1"), "N": ("NODELIST", lambda row: "\2"), "n": ("HOSTNAMES", key(2)),
               "C": ("CPUS(A/I/O/T)", lambda row: f"0/{row[3]}/0/{row[3]}")}
    format_ = options.get("format", "%9P %.5a %.10l %.6D %.6t %N")
    groups: dict[str, list[str]] = {}  # line with marks for %D and %N -> node names
    for partition in partitions:
        for node in cluster.nodes():
            line = fill(format_, letters, [*partition, *node], "sinfo")
            if "Node" in options:
                line = f"{node[0]}\3{line}"
            groups.setdefault(line, []).append(node[0])
    lines = [] if "noheader" in options else [fill(format_, letters, None, "sinfo")]
    for line, nodes in groups.items():
        names = list(dict.fromkeys(nodes))
        lines.append(line.rpartition("\3")[2].replace("\1", str(len(names))).replace("\2", ",".join(names)))
    return "".join(f"{line}\n" for line in lines)


def sacctmgr(cluster: Cluster, words: list[str], call: int) -> str:
    options, words = parse("sacctmgr", _SACCTMGR, words)
    if len(words) < 2 or words[0] not in ("show", "list"):
        raise unknown(f"sacctmgr {' '.join(words)}")
    given = dict(word.partition("=")[::2] for word in words[2:])
    settings = cluster.settings
    if words[1].startswith("assoc"):
        rows = [{"Cluster": "fake", "Account": account, "User": user(), "Partition": "", "QOS": settings["QOS"],
                 "MaxJobs": settings["MaxJobs"], "MaxSubmit": settings["MaxSubmitJobs"], "GrpJobs": "",
                 "GrpSubmit": "", "Def QOS": ""} for account in settings["Accounts"].split(",")]
        rows = [row for row in rows if given.get("user", row["User"]) == row["User"]]
    elif words[1] == "qos":
        rows = [{"Name": name, "MaxJobsPU": "", "MaxSubmitPU": "", "MaxWall": "", "Priority": "0", "GrpJobs": "",
                 "GrpSubmit": ""} for name in settings["QOS"].split(",")]
    else:
        raise unknown(f"sacctmgr show {words[1]}")
    fields = [field.lower() for field in given.get("format", "").split(",") if field] or [
        key.lower() for key in (rows[0] if rows else {})]
    short = {"maxsubmitjobs": "maxsubmit", "maxsubmitjobsperuser": "maxsubmitpu", "maxjobsperuser": "maxjobspu",
             "grpsubmitjobs": "grpsubmit", "defaultqos": "def qos"}
    fields = [short.get(field.partition("%")[0], field.partition("%")[0]) for field in fields]
    names = {key.lower(): key for row in rows for key in row}
    for field in fields:
        if rows and field not in names:
            raise unknown(f"sacctmgr's field {field}")
    return _table([names.get(field, field) for field in fields], [[row[names[field]] for field in fields]
                                                                  for row in rows], fields, options)


def srun(cluster: Cluster, words: list[str], call: int) -> str:
    """The command once per task, all at once, with SLURM_PROCID set. Not the queue: it runs where it is called."""
    options, command = parse("srun", _SBATCH + " l:label u:unbuffered pty mpi= overlap exact", words, stop=True)
    count = int(options.get("ntasks", os.environ.get("SLURM_NTASKS", "1")))
    children = [os.posix_spawnp(command[0], command, {**os.environ, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(
        rank), "SLURM_NTASKS": str(count), "SLURM_STEP_ID": "0"}) for rank in range(count)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    raise Said("", max((128 - code if code < 0 else code) for code in codes))


def rule_for(cluster: Cluster, command: str, number: int) -> dict[str, str]:
    """The knobs that the rules set for this call, later rules over earlier ones."""
    knobs: dict[str, str] = {}
    for name in cluster.numbers("rules"):
        rule = load(read(f"{cluster.folder}/rules/{name}"))
        since = number - int(rule["Base"])
        if rule["Command"] == command and since > 0 and (not rule["Nth"] or str(since) in rule["Nth"].split(",")):
            knobs.update(rule)
    return knobs


def limited(cluster: Cluster) -> bool:
    """Whether this second's calls of sbatch are used up; takes one of them if not."""
    rate, second = cluster.settings["Rate"], int(time.time())
    for slot in range(int(rate or 0)):
        try:
            os.close(os.open(f"{cluster.folder}/rate/{second}-{slot}", os.O_CREAT | os.O_EXCL))
            return False
        except FileExistsError:
            continue
    return bool(rate)


def answer(cluster: Cluster, kind: str, words: list[str], number: int) -> tuple[str, str, int, dict[str, str]]:
    """What the command prints on stdout and stderr, its exit status, and the knobs that are left to be obeyed."""
    knobs = rule_for(cluster, kind, number)
    command = kind.partition(" ")[0]
    time.sleep(float(knobs.get("Delay", 0)))
    out, err, code = "", "", 0
    try:
        if command == "sbatch" and limited(cluster):
            raise Said(WORDS["temporarily_unable"])
        if knobs.get("Accept") != "0":
            out = globals()[command](cluster, words, number)
    except Said as said:
        err, code = said_by(kind, said.words) + "\n" * bool(said.words), said.code
    if "Stderr" in knobs:
        err += knobs["Stderr"] + "\n"
    return knobs.get("Stdout", out), err, int(knobs.get("Code", code)), knobs


def main(argv: list[str]) -> int:
    """One call: record it, answer it."""
    command, words = os.path.basename(argv[0]), argv[1:]
    folder = os.environ.get("FAKE_SLURM", "")
    if not os.path.isfile(f"{folder}/settings"):
        print(f"fake {command}: $FAKE_SLURM ({folder or 'not set'}) is no folder that was set up for the stand-in for "
              "Slurm; see docs/testing.md", file=sys.stderr)
        return NOT_SET_UP
    cluster = Cluster(folder)
    kind = TEST_ONLY if command == "sbatch" and "--test-only" in words else command
    number = cluster.take(f"calls/{kind}", dump({
        "Time": str(time.time()), "Pid": str(os.getpid()), "Cwd": os.getcwd(), "Argv": "\0".join([command, *words]),
        "Environ": "\0".join(f"{key}={value}" for key, value in os.environ.items())}))
    out, err, code, knobs = answer(cluster, kind, words, number)
    time.sleep(float(knobs.get("Hang", 0)))
    if "Kill" in knobs:
        os.kill(os.getpid(), 9)
    for descriptor, text in ((1, out), (2, err)):
        data = text.encode("utf-8", "surrogateescape")
        while data:
            data = data[os.write(descriptor, data):]
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
