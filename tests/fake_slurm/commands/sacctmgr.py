"""sacctmgr: list associations and QOS."""
from __future__ import annotations

from tests.fake_slurm.cluster import Cluster
from tests.fake_slurm.commands.options import parse_options
from tests.fake_slurm.commands.tables import format_table
from tests.fake_slurm.errors import unsupported
from tests.fake_slurm.jobs import user_name

OPTIONS = "n:noheader P:parsable2 p:parsable i:immediate s:associations Q:quiet"
SHORT_NAMES = {"maxsubmitjobs": "maxsubmit", "maxsubmitjobsperuser": "maxsubmitpu", "maxjobsperuser": "maxjobspu",
               "grpsubmitjobs": "grpsubmit", "defaultqos": "def qos"}


def run(cluster: Cluster, arguments: list[str], call_number: int) -> str:
    options, operands = parse_options("sacctmgr", OPTIONS, arguments)
    if len(operands) < 2 or operands[0] not in ("show", "list"):
        raise unsupported(f"sacctmgr {' '.join(operands)}")
    conditions = {key: value for key, _, value in (operand.partition("=") for operand in operands[2:])}
    if operands[1].startswith("assoc"):
        rows = [row for row in associations(cluster) if conditions.get("user", row["User"]) == row["User"]]
    elif operands[1] == "qos":
        rows = [{"Name": name, "MaxJobsPU": "", "MaxSubmitPU": "", "MaxWall": "", "Priority": "0", "GrpJobs": "",
                 "GrpSubmit": ""} for name in cluster.settings["QOS"].split(",")]
    else:
        raise unsupported(f"sacctmgr show {operands[1]}")
    headers = {key.lower(): key for row in rows for key in row}
    fields = [field.partition("%")[0].lower() for field in conditions.get("format", "").split(",") if field]
    fields = [SHORT_NAMES.get(field, field) for field in fields or headers]
    for field in fields:
        if rows and field not in headers:
            raise unsupported(f"sacctmgr's field {field}")
    return format_table([headers.get(field, field) for field in fields],
                        [[row[headers[field]] for field in fields] for row in rows], fields, options)


def associations(cluster: Cluster) -> list[dict[str, str]]:
    """Return the user's association with each account."""
    settings = cluster.settings
    return [{"Cluster": "fake", "Account": account, "User": user_name(), "Partition": "", "QOS": settings["QOS"],
             "MaxJobs": settings["MaxJobs"], "MaxSubmit": settings["MaxSubmitJobs"], "GrpJobs": "", "GrpSubmit": "",
             "Def QOS": ""} for account in settings["Accounts"].split(",")]
