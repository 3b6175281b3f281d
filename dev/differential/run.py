"""Sends the same calls to two API servers and tells where the answers differ.

Usage: run.py PKI LEFT RIGHT [PART]     PKI has ca.crt, admin.crt, admin.key; LEFT and RIGHT are ports; PART is in the names of the groups to run
Environment: RIGHT_PKI=DIR where the second server has certificates of its own, SHOW=1 prints every difference whole, DUMP=FILE writes all normalised answers.
"""

import difflib
import fnmatch
import http.client
import json
import os
import pathlib
import ssl
import sys
import threading
import time

import allow
import every_kind
import explain
import normal
import relaxed
import wire

HERE = pathlib.Path(__file__).parent
HEADERS = ["Content-Type", "Warning", "Location", "Allow", "Retry-After", "Cache-Control", "Vary", "X-Content-Type-Options", "Www-Authenticate", "Accept-Patch"]
PRESENT = ["Audit-Id", "Etag"]
DEADLINE = 10


class Server:
    """One server and its open connections."""

    def __init__(self, pki, port):
        self.pki, self.port, self.open = pki, port, {}

    def connect(self, person):
        context = ssl.create_default_context(cafile=f"{self.pki}/ca.crt")
        if person == "admin":
            context.load_cert_chain(f"{self.pki}/admin.crt", f"{self.pki}/admin.key")
        return http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=DEADLINE)

    def send(self, call, path, headers, body):
        """Status, headers and body of the answer."""
        headers = dict(headers)
        person = headers.pop("As", "admin")
        if call.events:
            return self.watch(call, path, headers, person)
        for fresh in (False, True):
            try:
                if fresh or person not in self.open:
                    self.open[person] = self.connect(person)
                link = self.open[person]
                link.request(call.method, path, body=body, headers=headers)
                answer = link.getresponse()
                return answer.status, answer.headers, answer.read()
            except (http.client.HTTPException, OSError):
                if fresh:
                    raise
        return None

    def watch(self, call, path, headers, person):
        link = self.connect(person)
        link.request("GET", path, headers=headers)
        answer = link.getresponse()
        lines = []
        try:
            while len(lines) < call.events:
                line = answer.readline()
                if not line:
                    break
                lines.append(line)
        except TimeoutError:
            lines.append(b'"nothing more came"\n')
        link.close()
        return answer.status, answer.headers, b"".join(lines)


def fill(text, words):
    """A text with the words of the group in it."""
    for name, value in words.items():
        text = text.replace(f"<{name}>", str(value))
    return text


def part(value, path):
    """What lies at a path of names and numbers."""
    for step in path.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return "absent" if value is None else value


class Side:
    """A group as it goes on one of the servers."""

    def __init__(self, server, group, namespace, changes):
        self.server, self.group, self.changes, self.answers = server, group, changes, []
        self.words, self.normal, self.namespace, self.failed = {"ns": namespace}, normal.Words(), namespace, None

    def run(self):
        try:
            if any("<ns>" in call.path + (call.body or "") for call in self.group.calls):
                for path, name in (("/api/v1/namespaces", self.namespace), (f"/api/v1/namespaces/{self.namespace}/serviceaccounts", "default")):
                    made = self.server.send(relaxed.Call("POST", path), path, {"Content-Type": "application/json"}, json.dumps({"metadata": {"name": name}}))
                    if made[0] != 201:
                        raise RuntimeError(f"no {name}: {made[2]}")
            last = (b"", "application/json")
            for call in self.group.calls:
                last = self.one(call, last)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told as the outcome of the group
            self.failed = f"{type(error).__name__}: {error}"

    def one(self, call, last):
        headers = {name: fill(value, self.words) for name, value in call.headers.items()}
        body, call_ = None, call
        if call.method == "SAME":
            call_ = relaxed.Call("PUT", call.path)
            body = last[0]
            headers.setdefault("Content-Type", last[1])
        elif call.body is not None:
            body = fill(call.body, self.words)
            body = body if call.raw else relaxed.as_json(body)
            headers.setdefault("Content-Type", "application/json")
        path = fill(call.path, self.words).replace(" ", "%20")
        status, answered, content = self.server.send(call_, path, headers, body)
        end = time.monotonic() + DEADLINE
        while (call.until and status != call.until or call.has and call.has.encode() not in content) and time.monotonic() < end:
            time.sleep(0.05)
            status, answered, content = self.server.send(call_, path, headers, body)
        if call.until or call.has:
            self.answers.append((call.title(), {"status": status}))
            return last
        kind = answered.get("Content-Type", "")
        value = self.read(kind, content, bool(call.events))
        for word, path in call.keep.items():
            self.words[word] = part(value, path)
        told = {"status": status}
        for name in HEADERS:
            if answered.get_all(name) and name not in os.environ.get("IGNORE", ""):
                told[name] = [self.normal.text(one) for one in answered.get_all(name)]
        told["present"] = [name for name in PRESENT if answered.get(name)]
        self.normal.learn(value)
        normal.settle(value)
        told["body"] = self.normal.wire(value) if "protobuf" in kind else self.normal.value(value)
        if "json" in kind and not call.events:
            told["end"] = content[-1:].decode()
        for change in self.changes:
            change(told)
        self.answers.append((call.title(), told))
        return content, kind

    def read(self, kind, content, events):
        if "protobuf" in kind and events:
            return {"bytes": len(content) > 0}
        if "protobuf" in kind:
            return wire.envelope(content)
        text = content.decode(errors="replace")
        if events:
            try:
                return [json.loads(line) for line in text.splitlines()]
            except ValueError:
                return text.splitlines()
        if "json" in kind:
            try:
                return json.loads(text)
            except ValueError:
                return text
        return text.splitlines()

    def texts(self):
        """Every answer as lines, with revisions in order."""
        return [(title, self.normal.ranked(json.dumps(told, indent=1, ensure_ascii=False, sort_keys=True)).splitlines()) for title, told in self.answers]


def differences(left, right):
    """Calls whose answers differ: title and the lines that do."""
    found = []
    if left.failed or right.failed:
        found.append(("the group", [f"-{left.failed}", f"+{right.failed}"]))
    for (title, one), (_, other) in zip(left.texts(), right.texts()):
        if one != other:
            found.append((title, [line for line in difflib.unified_diff(one, other, n=1, lineterm="")][2:]))
    return found


def listed():
    """The differences that are known: parts of names of groups, calls and lines, and the reason."""
    named, entries = [], []
    for line in (HERE / "differences.txt").read_text().splitlines():
        words = [] if line.startswith("#") else [word.strip() for word in line.split("|", 3)]
        if len(words) == 2:
            named.append(words[0])
        elif len(words) == 4:
            entries.append(words)
    return named, entries


def unexplained(group, found, known, used):
    """What of the differences is in no entry of the list."""
    left = []
    for title, lines in found:
        rest = []
        for line in lines:
            if not line or line[0] not in "+-":
                continue
            entry = next((one for one in known if fnmatch.fnmatch(group, one[0]) and fnmatch.fnmatch(title, one[1]) and fnmatch.fnmatch(line[1:].strip().rstrip(","), one[2])), None)
            if entry:
                used.add(known.index(entry))
            else:
                rest.append(line)
        if rest:
            left.append((title, lines))
    return left


def main():
    pki, ports, focus = sys.argv[1], sys.argv[2:4], sys.argv[4] if len(sys.argv) > 4 else ""
    servers = [Server(trust, int(port)) for trust, port in zip((pki, os.environ.get("RIGHT_PKI", pki)), ports)]
    groups = [group for file in sorted((HERE / "calls").glob("*.txt")) for group in relaxed.parse(file.read_text())]
    groups += every_kind.groups(servers[0])
    (named, known), used, calls, differing, failed = listed(), set(), 0, 0, 0
    changes = [allow.NAMED[name] for name in named if name not in ("member-order", "schema-words", "empty-bundle")]
    dump = open(os.environ["DUMP"], "w", encoding="utf-8") if os.environ.get("DUMP") else None
    for number, group in enumerate(one for one in groups if focus in one.name):
        begin = time.monotonic()
        sides = [Side(server, group, f"calls-{number}", changes) for server in servers]
        threads = [threading.Thread(target=side.run) for side in sides]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        calls += len(sides[0].answers)
        found = differences(*sides)
        differing += len(found)
        left = unexplained(group.name, found, known, used)
        failed += bool(left)
        print(f"test differential::{group.name.replace(' ', '_')} ... {'FAILED' if left else 'ok'} ({int((time.monotonic() - begin) * 1000)} ms)")
        for title, lines in left:
            print(f"    {title}")
            for line in lines if os.environ.get("SHOW") else lines[:12]:
                print(f"        {line[:400]}")
        if dump:
            for title, lines in sides[0].texts():
                dump.write("\n".join([f"=== {group.name}: {title}", *lines, ""]))
        sys.stdout.flush()
    for name, look in (("openapi schemas", lambda: explain.schemas(servers)), ("kubectl explain", lambda: explain.commands(pki, ports))):
        if focus in name:
            begin = time.monotonic()
            count, all_found = look()
            found = unexplained(name, all_found, known, used)
            calls, differing, failed = calls + count, differing + len(all_found), failed + bool(found)
            print(f"test differential::{name.replace(' ', '_')} ... {'FAILED' if found else 'ok'} ({int((time.monotonic() - begin) * 1000)} ms)")
            for title, lines in found:
                print("\n".join([f"    {title}", *(f"        {line[:300]}" for line in lines[:200 if os.environ.get("SHOW") else 12])]))
    for at, entry in enumerate(known):
        if at not in used and not focus:
            print(f"    listed and not seen: {' | '.join(entry[:3])}")
    print(f"{calls} calls, {differing} with a difference, {len(used)} of {len(known)} listed kinds of difference seen, {failed} groups failed")
    sys.exit(1 if failed else 0)


main()
