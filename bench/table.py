#!/usr/bin/env python3
"""table.py RAW: medians and spread of both sides, their ratio, and the ratio that the budget asks for, as Markdown."""
import collections
import os
import statistics
import sys



def count(name):
    return f"{int(os.environ.get(name, 0)):,}"


# Row and measure: what it is, the ratio of the budget, and whether more is better.
BUDGET = {
    ("idle", "pss_mib"): ("idle memory, MiB", 12, False),
    ("idle", "percent_of_core"): ("idle CPU, % of a core", 25, False),
    ("start", "seconds"): ("start to node Ready, s", 14, False),
    ("pod", "p50_ms"): ("pod create to Running, p50, ms", 33, False),
    ("pod", "p99_ms"): ("pod create to Running, p99, ms", None, False),
    ("pods", "per_second"): ("pods at once, pods/s", 13, True),
    ("pods", "p50_ms"): ("pods at once, p50, ms", None, False),
    ("pods", "mib_per_pod"): ("memory of an idle pod on its node, MiB", 20, False),
    ("pods", "idle_percent_of_core"): (f"idle CPU with {count('PODS')} pods: the node of the Go side, all of knarr, % of a core (at most 0.1)", None, False),
    ("exec", "p50_ms"): ("exec round trip, p50, ms (at most 10)", None, False),
    ("exec", "p99_ms"): ("exec round trip, p99, ms", None, False),
    ("create", "us_cpu_per_op"): ("create, 32 clients: server CPU, us", 13, False),
    ("create", "per_second"): ("create, 32 clients: calls/s", None, True),
    ("create1", "p50_ms"): ("create, one client, p50, ms", 4, False),
    ("get", "us_cpu_per_op"): ("get: server CPU, us", 14, False),
    ("get", "per_second"): ("get, 32 clients: calls/s", None, True),
    ("patch", "us_cpu_per_op"): ("merge patch: server CPU, us", 13, False),
    ("apply", "us_cpu_per_op"): ("apply of a Lease: server CPU, us", 13, False),
    ("list", "p50_ms"): ("list of the config maps, p50, ms", 10, False),
    ("list", "us_cpu_per_op"): ("list of the config maps: server CPU, us", None, False),
    ("fanout", "us_cpu_per_op"): ("watch: server CPU per delivered event, us", 10, False),
    ("podlist", "p50_ms"): (f"list of {count('OBJECTS')} pods, warm, p50, ms", 10, False),
    ("podlist", "cold_ms"): (f"list of {count('OBJECTS')} pods, the first, ms", 10, False),
    ("podlist", "us_cpu_per_op"): (f"list of {count('OBJECTS')} pods, warm: server CPU, us", None, False),
    ("podlist", "peak_mib"): (f"list of {count('OBJECTS')} pods, the first: peak growth of server memory, MiB", None, False),
    ("podlist", "size_mb"): (f"list of {count('OBJECTS')} pods: its size, MB", None, False),
    ("podmem", "kib_per_pod"): (f"memory per pod object, of {count('OBJECTS')}, KiB", 10, False),
    ("definitions", "kib_each"): (f"memory per idle custom resource definition, of {count('DEFINITIONS')}, KiB (at most 20)", None, False),
    ("definitions", "kib_each_new"): ("memory per custom resource definition just made, KiB", None, False),
    ("restored", "seconds"): (f"start after kill -9 to consistent reads of {count('MAPS')} config maps, s (at most 1)", None, False),
    ("schedule", "us_cpu_per_op"): (f"create + schedule on {count('NODES')} fake nodes: control plane CPU per pod, us", 20, False),
    ("schedule", "us_cpu_scheduler"): ("of that the process of the scheduler, us", None, False),
    ("schedule", "per_second"): (f"create + schedule on {count('NODES')} fake nodes: pods/s", None, True),
    ("schedule", "us_cpu_per_node"): (f"{count('NODES')} fake nodes come: control plane CPU per node until it idles, us", None, False),
    ("repel", "per_second"): (f"required anti-affinity on {count('NODES')} fake nodes: pods/s", 40, True),
    ("repel", "us_cpu_per_op"): (f"required anti-affinity on {count('NODES')} fake nodes: control plane CPU per pod, us", None, False),
    ("repel", "us_cpu_scheduler"): ("of that the process of the scheduler, us", None, False),
    ("endpoint", "p50_ms"): (f"endpoint change among {count('SERVICES')} services to dataplane, p50, ms", 14, False),
    ("endpoint", "us_cpu_per_op"): (f"endpoint change among {count('SERVICES')} services: CPU of all processes, us", None, False),
    ("size", "mb"): ("installed size, stripped, MB", 14, False),
}

values = collections.defaultdict(list)
for line in open(sys.argv[1]):
    _, side, row, measure, value = line.rstrip("\n").split("\t")
    if value and value != "null":
        values[side, row, measure].append(float(value))


def text(numbers):
    if not numbers:
        return "-"
    middle = statistics.median(numbers)
    form = "{:.0f}" if middle >= 100 else "{:.1f}" if middle >= 1 else "{:.3f}"
    spread = f" ({form.format(min(numbers))} to {form.format(max(numbers))})" if len(numbers) > 1 else ""
    return form.format(middle) + spread


print("| What | Go components | Knarr | Ratio | Budget |")
print("|---|---|---|---|---|")
for (row, measure), (name, budget, more) in BUDGET.items():
    go, own = values[("go", row, measure)], values[("knarr", row, measure)]
    if not go and not own:
        continue
    ratio = "-"
    if go and own and statistics.median(go) > 0 and statistics.median(own) > 0:
        factor = statistics.median(go) / statistics.median(own)
        ratio = f"{1 / factor if more else factor:.1f}"
    print(f"| {name} | {text(go)} | {text(own)} | {ratio} | {budget or '-'} |")
