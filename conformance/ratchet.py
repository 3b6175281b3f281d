#!/usr/bin/env python3
"""ratchet.py PASSED RESULTS: specs in PASSED must not have failed in RESULTS; those that passed are added to PASSED.

RESULTS holds lines of state, seconds and name, as run.sh merges them. Exit 1 names what was lost.
"""
import os
import sys

passed_file, results_file = sys.argv[1:3]
passed = set()
if os.path.exists(passed_file):
    passed = {line.rstrip("\n") for line in open(passed_file) if line.strip()}
results = {}
if os.path.exists(results_file):
    for line in open(results_file):
        state, _, name = line.rstrip("\n").split("\t")
        results[name] = state
lost = sorted(name for name in passed if results.get(name, "passed") != "passed")
new = {name for name, state in results.items() if state == "passed"} - passed
if new:
    with open(passed_file, "w") as file:
        file.writelines(name + "\n" for name in sorted(passed | new))
for name in lost:
    print("LOST", name)
print(f"{len(passed | new)} specs have passed so far, {len(new)} of them new, {len(lost)} lost")
sys.exit(1 if lost else 0)
