"""What two servers may say differently by nature is given the same words: identities, times, revisions, what is dealt out at random."""

import base64
import json
import pathlib
import re
import sys
import time

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent))
from shapes import DAY, UID, VOLUME  # noqa: E402

TIME = re.compile(f"({DAY})" + r"(\.\d+)?Z")
AGE = re.compile(r"(<invalid>|(\d+[smhd])+)")
PAGE = re.compile(r"eyJ[\w-]{40,}")
NODE_PORT = re.compile(r":3[0-2]\d{3}/")
STRICT = re.compile(r'(?<=Invalid value: )"(\{.*\})"(?=: (?:strict decoding error|json: |no kind |unrecognized type))')
ADDRESS = re.compile(r"10\.96\.\d+\.\d+")
TOKEN = re.compile(r"eyJ[\w-]+\.eyJ[\w-]+\.[\w-]+")
# Texts that hold a revision.
REVISION = [re.compile(r"(?<=Too large resource version: )\d+(?=, current)"), re.compile(r"(?<=current: )\d+"), re.compile(r"(?<=too old resource version: )\d+"), re.compile(r"(?<=version: \d \()\d+(?=\))"), re.compile(r"(?<=precondition \()\d+(?=\))"), re.compile(r"(?<=in record \()\d+(?=\))")]
# Lists and causes that the Go server makes of maps of its own, in an order that changes from call to call.
UNORDERED = ("resourceRules", "nonResourceRules")
AMOUNT = re.compile(r"\.resources\.(limits|requests)(\[|$)|^data\[|^spec\.hard\[")
# The same list in YAML, whose entries begin where its name does.
MANAGED = re.compile(r"(?m)^( *)managedFields:\n((?:\1- .*\n(?:\1 +.*\n)*)+)")
# A name that was generated and then refused.
REFUSED = re.compile(r"(?<=Bad_)[a-z0-9]{5}\b")


def settle(value):
    """Puts causes in order that the Go server finds in maps, whose order is another one each time."""
    if isinstance(value, list):
        for one in value:
            settle(one)
        return
    if isinstance(value, dict):
        # What a LimitRange forbids is found in maps of resources.
        start, found, limits = str(value.get("message", "")).partition("is forbidden: [")
        if found and limits.startswith(("maximum ", "minimum ")):
            value["message"] = start + found + ", ".join(sorted(re.split(", (?=m[ai][xn]imum )", limits.rstrip("]")))) + "]"
    details = value.get("details") if isinstance(value, dict) else None
    causes = details.get("causes") if isinstance(details, dict) else None
    if not causes:
        return
    custom = str(details.get("group", "")).endswith("example.com")

    def random(one):
        return custom or one.get("reason") == "FieldManagerConflict" or "openAPIV3Schema.properties[" in one.get("field", "") or one.get("field", "").startswith(("data[", "binaryData["))

    put = iter(sorted((one for one in causes if random(one)), key=lambda one: (one.get("field", ""), one.get("message", ""))))
    details["causes"] = [next(put) if random(one) else one for one in causes]
    start, found, _ = str(value.get("message", "")).partition("is invalid: [")
    if found:
        texts = dict.fromkeys(f"{one['field']}: {one['message']}" if one.get("field") else one["message"] for one in details["causes"])
        value["message"] = f"{start}{found}{', '.join(texts)}]"


class Words:
    """The words of one group on one server."""

    def __init__(self):
        self.uids, self.names, self.addresses, self.ports, self.revisions = {}, {}, {}, {}, set()

    def _number(self, table, value, word):
        return f"<{word} {table.setdefault(value, len(table) + 1)}>"

    def text(self, text):
        """A text with what is random in it named by its order of appearance."""
        for name, word in self.names.items():
            text = text.replace(name, word)
        text = UID.sub(lambda match: self._number(self.uids, match.group(0), "uid"), text)
        text = TIME.sub(self._time, text)
        text = VOLUME.sub("kube-api-access-<generated>", text)
        text = REFUSED.sub("<generated>", text)
        text = TOKEN.sub("<token>", text)
        text = PAGE.sub("<continue>", text)
        text = re.sub(r"(?<=\")192\.0\.2\.20:\d+", "<own address>", text) if text.startswith('"') else re.sub(r"^192\.0\.2\.20:\d+", "<own address>", text)
        text = re.sub(r'resourceVersion: "(\d+)"', r'resourceVersion: "<at \1>"', text)
        text = ADDRESS.sub(lambda match: match.group(0) if match.group(0) in ("10.96.0.0", "10.96.0.1", "10.96.0.10") else self._number(self.addresses, match.group(0), "address"), text)
        text = NODE_PORT.sub(":<port>/", text)
        text = STRICT.sub(self._whole, text)
        for pattern in REVISION:
            text = pattern.sub("<revision>", text)
        return MANAGED.sub(self._managed, text)

    def _managed(self, match):
        """Entries in an order of their own: theirs is that of their times, which have seconds only."""
        entries = re.split(rf"(?m)^(?={match.group(1)}- )", match.group(2))
        return f"{match.group(1)}managedFields:\n{''.join(sorted(entries))}"

    def _time(self, match):
        at = time.mktime(time.strptime(match.group(1), "%Y-%m-%dT%H:%M:%S")) - time.timezone
        if abs(at - time.time()) > 7200:
            return match.group(0)
        return f"<time.{len(match.group(2) or '.') - 1}>"

    def _whole(self, match):
        """An object in a text, its members in order."""
        try:
            return json.dumps(self.value(json.loads(json.loads(f'"{match.group(1)}"'))), sort_keys=True)
        except ValueError:
            return match.group(0)

    def learn(self, value):
        """Notes names that were generated, wherever they stand in an answer."""
        if isinstance(value, dict):
            name, start = value.get("name"), value.get("generateName")
            if isinstance(name, str) and isinstance(start, str) and start and name.startswith(start) and name not in self.names and len(name) == len(start) + 5:
                self.names[name] = f"{start}<generated {len(self.names) + 1}>"
            for one in value.values():
                self.learn(one)
        elif isinstance(value, list):
            for one in value:
                self.learn(one)

    def value(self, value, key=""):
        """The same of any JSON; revisions become markers that `ranked` puts in order once all are known."""
        if isinstance(value, dict):
            if key == "metadata" and "resourceVersion" in value and ("creationTimestamp" in value or "name" in value) and str(value["resourceVersion"]).isdigit():
                self.revisions.add(int(value["resourceVersion"]))
            self._causes(value)
            if key == "metadata" and str(value.get("resourceVersion", "")).isdigit() and not value.keys() & {"name", "creationTimestamp", "uid"}:
                # Where a list was read: what others wrote meanwhile may count or not.
                value = {**value, "resourceVersion": f"<list at {value['resourceVersion']}>"}
            return {self.text(name): self.value(value[name], name) for name in sorted(value)}
        if isinstance(value, list):
            if key == "cells":
                return [("<age>" if isinstance(one, str) and AGE.fullmatch(one) else self.value(one)) for one in value]
            if key == "managedFields":
                # They are in the order of their times, which have seconds only.
                value = sorted(value, key=lambda one: [str(one.get(word)) for word in ("operation", "manager", "apiVersion", "subresource")])
            if key in UNORDERED:
                value = sorted(value, key=lambda one: json.dumps(one, sort_keys=True))
            return [self.value(one, key) for one in value]
        if isinstance(value, str):
            if key == "resourceVersion" and value.isdigit():
                return f"<at {value}>"
            if key == "continue" and value:
                return self._token(value)
            return self.text(value)
        if isinstance(value, int) and not isinstance(value, bool):
            if key in ("nodePort", "healthCheckNodePort") and value >= 30000:
                return self._number(self.ports, value, "port")
        return value

    def _causes(self, status):
        """Puts causes about members of maps in order, and the message that joins them."""
        details = status.get("details")
        causes = details.get("causes", []) if isinstance(details, dict) else []
        places = [at for at, one in enumerate(causes) if isinstance(one, dict) and AMOUNT.search(one.get("field", ""))]
        if len(places) < 2 or "message" not in status:
            return
        for at, one in zip(places, sorted((causes[at] for at in places), key=lambda one: json.dumps(one, sort_keys=True))):
            causes[at] = one
        begin = status["message"].find("is invalid: [")
        if begin >= 0:
            told = dict.fromkeys(f"{one['field']}: {one['message']}" for one in causes)
            status["message"] = f"{status['message'][:begin]}is invalid: [{', '.join(told)}]"

    def _token(self, value):
        """Where a page ends is the server's own affair; what is told of it is the state that the list goes on in."""
        try:
            token = json.loads(base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)))
        except ValueError:
            return value
        return f"<continue in {'any state' if token.get('rv', 0) <= 0 else 'one state'}>"

    def wire(self, value):
        """The same of protobuf: numbers that are times, texts that are revisions."""
        if isinstance(value, dict):
            out = {}
            for name, one in value.items():
                if isinstance(one, int) and abs(one - time.time()) < 7200:
                    out[name] = "<seconds>"
                elif isinstance(one, int) and 30000 <= one < 32768:
                    out[name] = self._number(self.ports, one, "port")
                elif isinstance(one, int) and one >= 1_000_000:
                    out[name] = "<large>"
                elif name == "6" and isinstance(one, str) and one.isdigit():
                    out[name] = f"<at {one}>"
                elif name == "2" and isinstance(one, str) and one.isdigit() and len(value) == 1:
                    out[name] = f"<list at {one}>"
                else:
                    out[name] = self.wire(one)
            return out
        if isinstance(value, list):
            told = [self.wire(one) for one in value]
            owners = sorted((one for one in told if isinstance(one, dict) and "17" in one), key=json.dumps)
            return [owners.pop(0) if isinstance(one, dict) and "17" in one else one for one in told]
        return self.text(value) if isinstance(value, str) else value

    def ranked(self, text):
        """Revisions as places among those that objects of the group have, since other writers share the count."""
        order = sorted(self.revisions)

        def place(match):
            at = int(match.group(1))
            if at in self.revisions:
                return f"<revision {order.index(at) + 1}>"
            return "<revision 0>" if at == 0 else f"<after revision {sum(1 for one in order if one < at)}>"
        text = re.sub(r"<list at (\d+)>", lambda match: f"<at or after revision {sum(1 for one in order if one <= int(match.group(1)))}>", text)
        return re.sub(r"<at (\d+)>", place, text)
