"""Cases as a person writes them by hand.

`= NAME` begins one; the words behind the name say what it shows. Every line is a step, in order:

    pod NAME {spec}             makes a pod on the node; what a spec leaves out is filled in, see `whole`. `metadata` may stand in it
    object /path {object}       makes another object in the name space; /path begins behind it, unless it is a whole one, /apis/...
    until PATH [= VALUE]        waits until the last pod's status has or had something at a path of names and numbers, or this value there;
                                `~ TEXT` waits for a text that holds these words, `!` for nothing there any more
    until event REASON          waits for an event about it
    until gone                  waits until it is not there any more
    patch [SUBRESOURCE] {...}   a strategic merge patch of the last pod
    delete SECONDS              deletes it with this grace
    exec CONTAINER WORDS...     runs a command in it and keeps what came of it; one word, in quotes, is for sh
    get /path                   keeps the answer of the API server; <ns>, <node> and <pod> are filled in
    node /path                  keeps that of the kubelet; `node keys /path` only the shape of a JSON answer, `node names /path` the names of metrics;
                                `node summary /path` the shape of what is told of the node and the last pod, with the paces of processors
    hold                        compares the last pod's status as it was when the last `until` found it: for what does not stay as it is

A `{` that is not closed goes on in the next lines. Lines that begin with # are for readers.
"""

import json
import pathlib
import sys
from dataclasses import dataclass, field

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "differential"))
import relaxed  # noqa: E402


@dataclass
class Step:
    """What is done, with what words, and with what object."""
    deed: str
    words: str = ""
    value: dict | None = None
    line: str = ""


@dataclass
class Case:
    """Steps that belong together."""
    name: str
    about: str
    steps: list = field(default_factory=list)


def parse(text):
    """The cases of a file."""
    found, held = [], ""
    for line in text.splitlines():
        if held or (line.strip() and not line.startswith("#")):
            held += (" " if held else "") + line.strip()
        if not held or held.count("{") > held.count("}"):
            continue
        if held.startswith("= "):
            name, _, about = held[2:].strip().partition(" ")
            found.append(Case(name, about.strip()))
        else:
            deed, _, rest = held.partition(" ")
            words, brace, tail = rest.partition("{")
            if deed in ("pod", "object", "patch") and brace:
                found[-1].steps.append(Step(deed, words.strip(), json.loads(relaxed.as_json(brace + tail)), held))
            else:
                found[-1].steps.append(Step(deed, rest.strip(), None, held))
        held = ""
    return found


def whole(name, given, node, image):
    """The pod that a short spec stands for: one container named c of the small image, `sh` for a script, no token, a short grace."""
    spec = dict(given)
    metadata = {"name": name, **spec.pop("metadata", {})}
    spec.setdefault("containers", [{}])
    spec.setdefault("nodeName", node)
    spec.setdefault("automountServiceAccountToken", False)
    spec.setdefault("terminationGracePeriodSeconds", 1)
    spec.setdefault("enableServiceLinks", False)
    for one in spec["containers"] + spec.get("initContainers", []):
        fill(one, image)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def fill(container, image):
    """The same for one container; without any command it sleeps."""
    container.setdefault("name", "c")
    container.setdefault("imagePullPolicy", "IfNotPresent")
    script = container.pop("sh", None)
    if "image" not in container:
        container["image"] = image
        if "command" not in container:
            container["command"] = ["sh", "-c", script if script is not None else "trap 'exit 0' TERM; sleep 3600 & wait"]
