"""Bodies and files of calls: JSON with words that need no quotes, and calls in a form that a person writes by hand.

A file holds groups. `= NAME` begins one; its calls run in order, in a namespace `<ns>` of its own. A call is

    METHOD /path?query          WATCH 3 /path reads at most three events and hangs up; SAME puts the last answer's bytes in the body
    WAITFOR 403 POST /path      repeats the call until it is answered so, and compares nothing; WAIT is WAITFOR 200 GET
    HAS word /path              repeats GET until the answer has the word in it, and compares nothing
    > Header: value             `> As: NOBODY` sends no certificate
    < word metadata.uid         keeps a part of the answer; `<word>` in later calls is that part
    {kind: Pod, ...}            the body; after `|` it is taken as it stands

and ends at an empty line. Lines that begin with `#` are for readers.
"""

import json
import re
from dataclasses import dataclass, field

TOKEN = re.compile(r'\s+|"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+(?::(?=[^\s{}\[\]:,"])[^\s{}\[\]:,"]+)*')
PLAIN = re.compile(r'true|false|null|-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?')


@dataclass
class Call:
    """One request, with words still to be put in."""
    method: str
    path: str
    headers: dict = field(default_factory=dict)
    keep: dict = field(default_factory=dict)
    body: str | None = None
    raw: bool = False
    events: int = 0
    until: int = 0
    has: str = ""

    def title(self):
        """What the call is named in reports."""
        return f"{self.method} {self.path}"


@dataclass
class Group:
    """Calls that belong together."""
    name: str
    calls: list = field(default_factory=list)


def as_json(text):
    """JSON of relaxed JSON: a bare word is a string, unless it is a number or a constant."""
    out = []
    for token in (match.group(0) for match in TOKEN.finditer(text)):
        if token.isspace() or token[0] == '"' or token in "{}[]:,":
            out.append(token)
        else:
            out.append(token if PLAIN.fullmatch(token) else json.dumps(token))
    return "".join(out)


def parse(text):
    """The groups of a file."""
    groups, call, body = [], None, []

    def end():
        nonlocal call, body
        if call is not None and body:
            joined = "\n".join(body)
            if joined.startswith("|"):
                call.raw, call.body = True, joined[1:]
            else:
                call.body = joined
        call, body = None, []

    for line in text.splitlines():
        if line.startswith("#"):
            continue
        if line.startswith("= "):
            end()
            groups.append(Group(line[2:].strip()))
        elif not line.strip() and not (body and body[0].startswith("|")):
            end()
        elif not line.strip():
            end()
        elif call is None:
            words = line.split(" ")
            events = 0
            if words[0] == "WATCH":
                events = int(words.pop(1))
                words[0] = "GET"
            until, has = 0, ""
            if words[0] == "WAITFOR":
                until = int(words[1])
                words = words[2:]
            elif words[0] == "HAS":
                has = words.pop(1)
                words[0] = "GET"
            elif words[0] == "WAIT":
                words[0], until = "GET", 200
            call = Call(words[0], " ".join(words[1:]), events=events, until=until, has=has)
            groups[-1].calls.append(call)
        elif line.startswith("> ") and not body:
            name, value = line[2:].split(":", 1)
            call.headers[name.strip()] = value.strip()
        elif line.startswith("< ") and not (body and body[0].startswith("|")):
            word, path = line[2:].split()
            call.keep[word] = path
        else:
            body.append(line)
    end()
    return groups
