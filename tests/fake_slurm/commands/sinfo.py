"""sinfo: list partitions and nodes."""
from __future__ import annotations

from tests.fake_slurm.cluster import Cluster
from tests.fake_slurm.commands.options import parse_options
from tests.fake_slurm.commands.tables import Columns, format_line

OPTIONS = "h:noheader o:format= p:partition= N:Node e:exact"
FORMAT = "%9P %.5a %.10l %.6D %.6t %N"
NODE_COUNT, NODE_NAMES = "\1", "\2"  # placeholders: they are filled in when rows that are equal otherwise are joined


def run(cluster: Cluster, arguments: list[str], call_number: int) -> str:
    options, _ = parse_options("sinfo", OPTIONS, arguments)
    partitions, nodes = cluster.partitions(), cluster.nodes()
    columns = columns_of(default_partition=partitions[0][0])
    if "partition" in options:
        partitions = [partition for partition in partitions if partition[0] in options["partition"].split(",")]
    pattern = options.get("format", FORMAT)
    groups: dict[tuple[str, str], dict[str, None]] = {}  # names of the nodes by line; --Node keeps each apart
    for partition in partitions:
        for node in nodes:
            line = format_line("sinfo", pattern, columns, [*partition, *node])
            groups.setdefault((line, node[0] if "Node" in options else ""), {})[node[0]] = None
    lines = [] if "noheader" in options else [format_line("sinfo", pattern, columns, None)]
    lines += [line.replace(NODE_COUNT, str(len(names))).replace(NODE_NAMES, ",".join(names))
              for (line, _), names in groups.items()]
    return "".join(f"{line}\n" for line in lines)


def columns_of(default_partition: str) -> Columns:
    """Return header and value of each letter of --format.

    A row has partition, time limit, node name, CPUs, MB, gres and features.
    """
    return {"R": ("PARTITION", lambda row: row[0]),
            "P": ("PARTITION", lambda row: row[0] + "*" * (row[0] == default_partition)),
            "l": ("TIMELIMIT", lambda row: row[1]), "a": ("AVAIL", lambda row: "up"), "c": ("CPUS", lambda row: row[3]),
            "m": ("MEMORY", lambda row: row[4]), "G": ("GRES", lambda row: row[5]),
            "f": ("AVAIL_FEATURES", lambda row: row[6]), "b": ("ACTIVE_FEATURES", lambda row: row[6]),
            "t": ("STATE", lambda row: "idle"), "T": ("STATE", lambda row: "idle"),
            "D": ("NODES", lambda row: NODE_COUNT), "N": ("NODELIST", lambda row: NODE_NAMES),
            "n": ("HOSTNAMES", lambda row: row[2]), "C": ("CPUS(A/I/O/T)", lambda row: f"0/{row[3]}/0/{row[3]}")}
