"""What is compared of a pod: its status and events, with what is another one in each run named by what it is."""

import json
import pathlib
import re
import sys
import zlib

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent))
from shapes import DAY, UID, VOLUME  # noqa: E402

CONTAINER = re.compile(r"(?<!sha256:)\b[0-9a-f]{64}\b|\b[0-9a-f]{32}-[a-z0-9-]+-\d+\b")
TIME = re.compile(DAY + r"(\.\d+)?(Z|[+-]\d\d:\d\d)")
TOOK = re.compile(r"\bin (\d+(\.\d+)?(ms|s|µs|m))+ \((\d+(\.\d+)?(ms|s|µs|m))+ including waiting\)")
ADDRESS = re.compile(r"\b(10\.(244|172)|192\.0\.2)\.\d+(\.\d+)?\b")
USED = re.compile(r"(?<=, used: )\d+(?=, capacity)|(?<=below current usage \()\d+(?=\))")
# What containerd, its shim and runc put before what went wrong, one after the other, and gRPC before that.
LAYERS = [
    "failed to create containerd task: ", "failed to create shim task: ", "OCI runtime create failed: ", "runc create failed: ", "error during container init: ",
    "failed to create containerd container: ", "rpc error: code = Unknown desc = ", "failed to exec in container: ", "OCI runtime exec failed: ", "exec failed: ",
]
EXECUTION = re.compile(r'failed to start exec "<id>": ')
# What a group of version 1 without a limit says, in the Go kubelet's words.
NO_LIMIT = "9007199254740988Ki"
TIMES = {"startTime", "startedAt", "finishedAt", "lastTransitionTime", "lastProbeTime"}


class Side:
    """One of the kubelets: where its pods are, and the words that mean it in texts."""

    def __init__(self, name, space, node, address, words):
        self.name, self.space, self.node, self.address = name, space, node, address
        self.words = sorted(words.items(), key=lambda word: -len(word[0]))

    def text(self, text):
        """A text without what is this run's and this side's own."""
        text = UID.sub("<uid>", TIME.sub("<time>", TOOK.sub("in <time>", text)))
        text = VOLUME.sub("kube-api-access-<random>", text)
        for word, stands in self.words:
            text = text.replace(word, stands)
        text = re.sub(rf"(?<![\w.-]){re.escape(self.node)}(?![\w-])", "<node>", text)
        text = re.sub(rf"(?<![a-z0-9-]){re.escape(self.space)}(?![a-z0-9-])", "<ns>", text)
        text = USED.sub("<used>", ADDRESS.sub("<ip>", CONTAINER.sub("<id>", text)))
        for layer in LAYERS:
            text = text.replace(layer, "")
        return EXECUTION.sub("", text).replace("Internal error occurred: Internal error occurred: ", "Internal error occurred: ")

    def value(self, value, key=""):
        """The same of all texts of a JSON value."""
        if isinstance(value, dict):
            return {self.text(name): self.value(one, name) for name, one in sorted(value.items())}
        if isinstance(value, list):
            shown = [self.value(one, key) for one in value]
            return sorted(shown, key=lambda one: one["type"]) if key == "conditions" else shown
        if key in TIMES:
            return value and "<time>"
        return self.text(value) if isinstance(value, str) else value

    def pod(self, world, name, held=None):
        """Everything that is compared of one pod, as lines; as it was at a moment where that is given."""
        key = (self.space, name)
        pod = held or world.pods.get(key) or world.gone.get(key)
        told = [f"there: {key in world.pods}"]
        if pod:
            status = dict(pod.get("status", {}))
            if status.get("resources", {}).get("limits", {}).get("memory") == NO_LIMIT:
                whole = {name: amount for name, amount in status["resources"]["limits"].items() if amount != NO_LIMIT}
                status["resources"] = {**status["resources"], "limits": whole} if whole else {name: one for name, one in status["resources"].items() if name != "limits"}
            kept = {"status": status, "generation": pod["metadata"].get("generation"), "deleting": "deletionTimestamp" in pod["metadata"]}
            told += lines(self.value(kept))
        return told + self.events(world, name, pod["metadata"]["uid"] if pod else None)

    def events(self, world, name, uid):
        """What was said of this very pod, not of one of its name before."""
        found = set()
        for one in world.events.get((self.space, name), {}).values():
            if one["involvedObject"].get("uid") != uid or str(one.get("message")).startswith("(combined from similar events)"):
                continue
            found.add(self.text(f"event: {one.get('type')} {one.get('reason')} {one['involvedObject'].get('fieldPath', '-')} {one.get('reportingComponent')}: {one.get('message')}"))
        return sorted(found)


def lines(value, path=""):
    """Every leaf of a JSON value as one line that says where it is."""
    if isinstance(value, dict) and value:
        return [line for name, one in value.items() for line in lines(one, f"{path}.{name}" if path else name)]
    if isinstance(value, list) and value:
        def label(at, one):
            return str(one.get("type") or one.get("name") or at) if isinstance(one, dict) else str(at)
        return [line for at, one in enumerate(value) for line in lines(one, f"{path}[{label(at, one)}]")]
    if isinstance(value, str):
        # A long text by how it begins, its length and what it hashes to.
        short = value if len(value) < 600 else f"{value[:60]}... {len(value)} {zlib.crc32(value.encode()):08x}"
        return [f"{path}: {json.dumps(short, ensure_ascii=False)[1:-1]}"]
    return [f"{path}: {value!r}"]


def keys(value):
    """A JSON value with nothing but its names: what a reader may count on."""
    if isinstance(value, dict):
        return {name: keys(one) for name, one in value.items()}
    if isinstance(value, list):
        merged = {}
        for one in value:
            merge(merged, keys(one) if isinstance(one, dict) else {})
        return [merged] if merged else []
    # Programs write whole numbers with and without a fraction.
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__


def merge(whole, part):
    """Adds names to names, however deep."""
    for name, one in part.items():
        if isinstance(whole.get(name), dict) and isinstance(one, dict):
            merge(whole[name], one)
        elif isinstance(whole.get(name), list) and isinstance(one, list):
            both = {}
            for names in whole[name] + one:
                merge(both, names)
            whole[name] = [both] if both else []
        else:
            whole.setdefault(name, one)
