"""sbatch: make a pending job of a batch script."""
from __future__ import annotations

import os
import time

from tests.fake_slurm.cluster import Cluster
from tests.fake_slurm.commands import validation
from tests.fake_slurm.commands.batch_script import directives, read_script
from tests.fake_slurm.commands.options import parse_options
from tests.fake_slurm.errors import CommandExit
from tests.fake_slurm.formats import format_time
from tests.fake_slurm.jobs import Job, user_name
from tests.fake_slurm.records import write_file

# all options of Slurm 22.05
OPTIONS = """
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


def run(cluster: Cluster, arguments: list[str], call_number: int) -> str:
    options, positionals = parse_options("sbatch", OPTIONS, arguments, stop_at_positional=True)
    if "version" in options:
        return "slurm 22.05.8\n"
    if "help" in options or "usage" in options:
        return "Usage: sbatch [OPTIONS(0)...] script(0) [args(0)...]\n"
    script = read_script(options, positionals)
    options = {**parse_options("sbatch", OPTIONS, directives(script))[0], **options}
    job = new_job(cluster, options, positionals, call_number)
    if "test-only" in options:
        raise report_start(cluster, job)
    os.mkdir(f"{cluster.folder}/scripts/{call_number}")
    write_file(f"{cluster.folder}/scripts/{call_number}/slurm_script", script)
    number = cluster.add_record("jobs", job)
    validation.check_limits(cluster, number)
    if "parsable" in options:
        return f"{number}\n"
    return "" if "quiet" in options else f"Submitted batch job {number}\n"


def report_start(cluster: Cluster, job: Job) -> CommandExit:
    """Return the answer of --test-only, which goes to stderr. Like real Slurm, it uses up a job id."""
    number = cluster.add_record("jobs", {})
    os.unlink(f"{cluster.folder}/jobs/{number}")
    return CommandExit(f"sbatch: Job {number} to start at {format_time(str(time.time()))} using {job['CPUs']} "
                       f"processors on nodes {cluster.nodes()[0][0]} in partition {job['Partition']}", 0)


def new_job(cluster: Cluster, options: dict[str, str], positionals: list[str], call_number: int) -> Job:
    """Return the record of a pending job. Raises CommandExit if Slurm would reject it."""
    get = options.get
    time_limit = validation.checked_time_limit(options)
    validation.check_memory_format(options)
    partition = get("partition", cluster.partitions()[0][0])
    validation.check_resources(cluster, options, partition)
    tasks = validation.checked_tasks(cluster, options)
    validation.check_dependency(options)
    name = "wrap" if "wrap" in options else os.path.basename(positionals[0]) if positionals else "sbatch"
    return {
        "State": "PENDING", "Reason": "JobHeldUser" if "hold" in options else "", "Submit": str(time.time()),
        "Start": "", "End": "", "ExitCode": "0:0", "Restarts": "0", "Pid": "", "NodeList": "", "MaxRSS": "",
        "Tasks": ",".join(map(str, tasks)), "Throttle": get("array", "").partition("%")[2],
        "JobName": get("job-name", name), "Comment": get("comment", ""), "Partition": partition,
        "User": user_name(), "Account": get("account", "root"), "QOS": get("qos", "normal"),
        "TimeLimit": time_limit, "Nodes": get("nodes", "1").partition("-")[0],
        "CPUs": str(int(get("cpus-per-task", 1)) * int(get("ntasks", 1))),
        "CPUsPerTask": get("cpus-per-task", ""), "NumTasks": get("ntasks", ""), "Mem": get("mem", ""),
        "Gres": get("gres", ""), "GPUs": get("gpus", ""), "Features": get("constraint", ""),
        "Dependency": get("dependency", ""), "KillOnInvalid": "1" if get("kill-on-invalid-dep") == "yes" else "",
        "Requeue": "0" if "no-requeue" in options else "1",
        "Output": get("output", ""), "Error": get("error", ""), "OpenMode": get("open-mode", "truncate"),
        "WorkDir": os.path.abspath(get("chdir", os.getcwd())), "SubmitDir": os.getcwd(),
        "Command": os.path.abspath(positionals[0]) if positionals else "", "Args": "\0".join(positionals[1:]),
        "Export": get("export", "ALL"), "Call": str(call_number),
        "Options": "\0".join(f"{key}={value}" for key, value in options.items())}
