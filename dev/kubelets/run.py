"""Runs the same pods on two kubelets that belong to one API server, and tells where what becomes of them differs.

Usage: run.py PKI NODE-OF-GO NODE-OF-OURS IMAGE [PART]     PART: a part of the names of the cases to run
Environment: HOST, PORT of the API server; GO_ADDRESS, OUR_ADDRESS of the kubelets; GO_ROOT, OUR_ROOT, their folders; KUBECTL, KUBECONFIG.
SHOW=1 prints every difference, also the allowed ones; TIMES=1 when states were reached on either side; WIDTH: cases at a time.
"""

import concurrent.futures
import fnmatch
import json
import os
import pathlib
import re
import subprocess
import sys
import time

import cases
import shape
from api import Api, World

HERE = pathlib.Path(__file__).parent
PATIENCE = 120
SETTLE = 20
PATHS = {"strategic": "application/strategic-merge-patch+json"}


class Stuck(Exception):
    """A state that never came."""


class Run:
    """One case on one side."""

    def __init__(self, case, side, api, world, image):
        self.case, self.side, self.api, self.world, self.image = case, side, api, world, image
        self.pods, self.kept, self.stuck, self.at = [], [], None, []
        # Where in the last pod's history its state was found, and what is compared of pods that do not stay as they are.
        self.seen, self.held = 0, {}
        self.base = f"/api/v1/namespaces/{side.space}"

    def go(self):
        began = time.monotonic()
        for step in self.case.steps:
            try:
                getattr(self, f"do_{step.deed}")(step)
                self.at.append((step.line[:70], time.monotonic() - began))
            except Stuck as error:
                self.stuck = f"{error} ({self.short()})"
                return
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told as the outcome of the case
                self.stuck = f"{step.line[:60]}: {type(error).__name__}: {error}"
                return

    def short(self):
        pod = self.world.pods.get((self.side.space, self.pods[-1])) if self.pods else None
        return json.dumps(self.side.value(pod["status"]))[:1500] if pod else "there is no pod"

    def do_pod(self, step):
        pod = cases.whole(step.words, json.loads(self.fill(json.dumps(step.value))), self.side.node, self.image)
        self.pods.append(step.words)
        self.seen = 0
        self.api.ask("POST", f"{self.base}/pods", pod)

    def do_object(self, step):
        path = step.words if step.words.startswith("/apis/") else f"{self.base}{step.words}"
        self.api.ask("POST", path, json.loads(self.fill(json.dumps(step.value))))

    def do_patch(self, step):
        part = f"/{step.words}" if step.words else ""
        for one in step.value.get("spec", {}).get("ephemeralContainers", []):
            cases.fill(one, self.image)
        status, content = self.api.call("PATCH", f"{self.base}/pods/{self.pods[-1]}{part}", step.value, PATHS["strategic"])
        if status >= 300:
            self.kept.append(f"{step.deed} {part}: {status} {self.side.text(content.decode())}")

    def do_delete(self, step):
        self.api.call("DELETE", f"{self.base}/pods/{self.pods[-1]}", {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": int(step.words)})

    def do_until(self, step):
        key = (self.side.space, self.pods[-1])
        if step.words == "gone":
            def test(world):
                return key in world.gone
        elif step.words.startswith("event "):
            reason = step.words[6:]

            def test(world):
                return any(one.get("reason") == reason for one in world.events.get(key, {}).values())
        else:
            path, sign, wanted = (re.split(r" (=|~|!)(?: |$)", step.words, maxsplit=1) + ["", ""])[:3]

            def test(world):
                history = world.history.get(key, [])
                for at in range(self.seen, len(history)):
                    value = history[at][1].get("status", {})
                    for word in path.split("."):
                        value = pick(value, word)
                    if value is None if sign == "!" else value is not None and (not sign or str(value) == wanted or sign == "~" and wanted in str(value)):
                        self.seen = at
                        return True
                return False
        if not self.world.until(test, PATIENCE):
            raise Stuck(f"never {step.words}")

    def do_exec(self, step):
        container, _, words = step.words.partition(" ")
        command = ["sh", "-c", words[1:-1]] if words.startswith(("'", '"')) else words.split()
        made = subprocess.run([os.environ["KUBECTL"], "-n", self.side.space, "exec", self.pods[-1], "-c", container, "--", *command], capture_output=True, text=True, timeout=60, check=False)
        self.kept.append(f"exec {words}: {made.returncode}")
        self.kept += [f"  out {self.side.text(line)}" for line in made.stdout.splitlines()] + [f"  err {self.side.text(line)}" for line in made.stderr.splitlines()]

    def do_get(self, step):
        status, content = self.api.call("GET", self.fill(step.words))
        self.keep(step.line, status, content)

    def do_node(self, step):
        how, _, path = step.words.rpartition(" ")
        kubelet = Api(os.environ["PKI"], self.side.address, 10250, known=False)
        status, content = kubelet.call("GET", self.fill(path))
        if how == "summary":
            content = json.dumps(shape.keys(self.summary(kubelet, path))).encode()
        if how == "keys" and status == 200:
            content = json.dumps(shape.keys(json.loads(content))).encode()
        if how == "names" and status == 200:
            content = "\n".join(sorted({re.sub(r'="[^"]*"', "", line.split(" ")[0]) for line in content.decode().splitlines() if line and line[0] != "#"})).encode()
        self.keep(step.line, status, content)

    def summary(self, kubelet, path):
        """What is told of the node and of the last pod, once the pace of processors is known of it: that takes two readings."""
        end = time.monotonic() + PATIENCE
        while True:
            told = json.loads(kubelet.call("GET", path)[1])
            mine = [pod for pod in told["pods"] if (pod["podRef"]["namespace"], pod["podRef"]["name"]) == (self.side.space, self.pods[-1])]
            parts = [one for pod in mine for one in [pod, *pod["containers"]]] + [told["node"], *told["node"].get("systemContainers", [])]
            if mine and mine[0]["containers"] and all("usageNanoCores" in part.get("cpu", {}) for part in parts):
                return {**told, "pods": mine}
            if time.monotonic() > end:
                raise Stuck(f"{path} never told all paces")
            time.sleep(1)

    def do_hold(self, _step):
        with self.world.changed:
            self.held[self.pods[-1]] = self.world.history[(self.side.space, self.pods[-1])][self.seen][1]

    def keep(self, line, status, content):
        text = content.decode(errors="replace")
        self.kept.append(f"{line}: {status}")
        try:
            value = json.loads(text)
            self.kept += [f"  {one}" for one in shape.lines(self.side.value(value))]
        except ValueError:
            self.kept += [f"  {self.side.text(one)}" for one in text.splitlines()]

    def fill(self, text):
        for word, stands in (("<ns>", self.side.space), ("<node>", self.side.node), ("<pod>", self.pods[-1] if self.pods else ""), ("<image>", self.image)):
            text = text.replace(word, stands)
        return text

    def told(self):
        found = [f"stuck: {self.stuck}"] if self.stuck else []
        with self.world.changed:
            for name in self.pods:
                found += [f"{name} {line}" for line in self.side.pod(self.world, name, self.held.get(name))]
        return found + [f"{line}" for line in self.kept]


def pick(value, word):
    """A member by its name; of a list by its number, or by the name or type that it gives."""
    if isinstance(value, dict):
        return value.get(word)
    if isinstance(value, list):
        if word.isdigit():
            return value[int(word)] if int(word) < len(value) else None
        return next((one for one in value if word in (one.get("name"), one.get("type"))), None)
    return None


def differ(left, right):
    """Lines of one side alone, those of the first before those of the second."""
    return [f"- {line}" for line in left if line not in right] + [f"+ {line}" for line in right if line not in left]


class Allowed:
    """What `differences.txt` allows: `CASE | LINE | reason`, patterns of the shell's kind."""

    def __init__(self):
        rows = [line.split(" | ") for line in (HERE / "differences.txt").read_text().splitlines() if line and line[0] != "#"]
        self.rows = [(case.strip(), line.strip().replace("[", "[[]")) for case, line, _ in rows]
        self.used = set()

    def holds(self, case, line):
        for number, (name, pattern) in enumerate(self.rows):
            if fnmatch.fnmatchcase(case, name) and fnmatch.fnmatchcase(line[2:], pattern):
                self.used.add(number)
                return True
        return False


def one(case, sides, api, world, image, allowed):
    """A case on both sides; what still differs when there was time to agree."""
    runs = [Run(case, side, api, world, image) for side in sides]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(Run.go, runs))
    found = []

    def same(_world=None):
        told = [run.told() for run in runs]
        found[:] = differ(*told)
        return not [line for line in found if not allowed.holds(case.name, line)]
    if runs[0].stuck or runs[1].stuck:
        same()
    else:
        world.until(same, SETTLE)
    for run in runs:
        for name in run.pods:
            api.call("DELETE", f"{run.base}/pods/{name}", {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0})
    return found, runs


def main():
    pki, go, ours, image = sys.argv[1:5]
    part = sys.argv[5] if len(sys.argv) > 5 else ""
    os.environ["PKI"] = pki
    api = Api(pki, os.environ["HOST"], int(os.environ["PORT"]))
    # One image of several names, of which each tells another one.
    images = {image: "<image>", os.environ["IMAGE_TOO"]: "<image>"}
    sides = [shape.Side("Go", "side-a", go, os.environ["GO_ADDRESS"], {"containerd://": "runtime://", **images, os.environ["GO_ROOT"]: "<root>"}), shape.Side("ours", "side-b", ours, os.environ["OUR_ADDRESS"], {"knarr://": "runtime://", **images, os.environ["OUR_ROOT"]: "<root>"})]
    world, allowed = World(api), Allowed()
    chosen = [case for file in sorted(HERE.glob("cases/*.txt")) for case in cases.parse(file.read_text()) if part in case.name]
    passed = failed = 0
    began = {}

    def timed(case):
        began[case.name] = time.monotonic()
        return one(case, sides, api, world, image, allowed)
    with concurrent.futures.ThreadPoolExecutor(int(os.environ.get("WIDTH", "16"))) as pool:
        running = {pool.submit(timed, case): case for case in chosen}
        for done in concurrent.futures.as_completed(running):
            case = running[done]
            found, runs = done.result()
            wrong = [line for line in found if not allowed.holds(case.name, line)]
            passed, failed = passed + (not wrong), failed + bool(wrong)
            print(f"test kubelets::{case.name} ... {'FAILED' if wrong else 'ok'} ({int((time.monotonic() - began[case.name]) * 1000)} ms)", flush=True)
            for line in found if os.environ.get("SHOW") else wrong:
                print(f"    {line}", flush=True)
            if os.environ.get("TIMES"):
                for (line, theirs), (_, mine) in zip(runs[0].at, runs[1].at):
                    print(f"    {theirs:7.2f} {mine:7.2f}  {line}")
    unused = [row for number, row in enumerate(allowed.rows) if number not in allowed.used]
    if unused and not part and os.environ.get("SHOW"):
        print("allowed and not seen:", *unused, sep="\n    ")
    print(f"test result: {'FAILED' if failed else 'ok'}. {passed} passed; {failed} failed; 0 ignored")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
