"""Whether both servers describe the same fields with the same types: what `kubectl explain` and clients' schemas are made of."""

import json
import os
import subprocess

from relaxed import Call

KINDS = ["pods", "pod.spec", "deployments", "services.spec", "customresourcedefinitions.spec", "validatingadmissionpolicies", "horizontalpodautoscalers", "resourceclaims"]


def _get(server, path):
    status, _, body = server.send(Call("GET", path), path, {"Accept": "application/json"}, None)
    return json.loads(body) if status == 200 else {"status": status}


TOLD = ("type", "format", "$ref", "x-kubernetes-group-version-kind")


def _fields(value, place, out):
    """Every field below a schema with its type. What `differences.txt` calls schema-words is left out."""
    for name, one in value.items():
        if name in TOLD and not isinstance(one, dict):
            out[f"{place}.{name}"] = one if isinstance(one, str) else json.dumps(sorted(json.dumps(part, sort_keys=True) for part in one))
        elif isinstance(one, dict):
            _fields(one, f"{place}.{name}", out)
        elif isinstance(one, list) and name in ("allOf", "anyOf", "oneOf"):
            for number, part in enumerate(one):
                _fields(part, place if len(one) == 1 else f"{place}.{name}.{number}", out)


def _differences(left, right):
    one, other = {}, {}
    _fields(left, "", one)
    _fields(right, "", other)
    found = []
    for place in sorted(set(one) | set(other)):
        if one.get(place) != other.get(place):
            found.append(f"{place}: {one.get(place, 'absent')} | {other.get(place, 'absent')}")
    return found


def schemas(servers):
    """Titles and differences of the documents of OpenAPI v3: the schemas, and which paths and methods there are."""
    roots = [_get(server, "/openapi/v3").get("paths", {}) for server in servers]
    found, count = [], 1
    # Documents about discovery have no schemas; differences.txt lists them as schema-words, too.
    differing = [path for path in set(roots[0]) ^ set(roots[1]) if path.startswith("api") and path.count("/") == 2]
    if differing:
        found.append(("/openapi/v3", [f"-{path}" for path in differing]))
    for path in sorted(set(roots[0]) & set(roots[1])):
        count += 1
        documents = [_get(server, f"/openapi/v3/{path}") for server in servers]
        parts = [document.get("components", {}).get("schemas", {}) for document in documents]
        paths = [{name: {method: {"type": "served"} for method in one if method != "parameters"} for name, one in document.get("paths", {}).items()} for document in documents]
        both = set(parts[0]) & set(parts[1])
        parts = [{name: one for name, one in part.items() if name in both} for part in parts]
        differing = _differences(*parts)
        differing += [f"{name}: {sorted(paths[0].get(name, []))} | {sorted(paths[1].get(name, []))}" for name in sorted(set(paths[0]) | set(paths[1])) if not any(part in name for part in ("{path}", "proxy", "/watch/")) and not name.endswith("/") and paths[0].get(name) != paths[1].get(name)]
        if differing:
            found.append((path, [f"-{line}" for line in differing]))
    return count, found


def commands(pki, ports):
    """The same of `kubectl explain --recursive`: everything but the words above the fields."""
    found, count = [], 0
    for kind in KINDS:
        said = []
        for port in ports:
            count += 1
            line = ["kubectl", f"--server=https://127.0.0.1:{port}", f"--certificate-authority={pki}/ca.crt", f"--client-certificate={pki}/admin.crt", f"--client-key={pki}/admin.key", "explain", "--recursive", kind]
            out = subprocess.run(line, capture_output=True, text=True, env={**os.environ, "KUBECONFIG": "/dev/null", "HOME": str(pki)}, check=False)
            text = out.stdout + out.stderr
            head, _, fields = text.partition("FIELDS:\n")
            told = [one for one in head.splitlines() if one.startswith(("KIND", "VERSION", "FIELD", "GROUP"))]
            said.append((told, [one for one in fields.splitlines() if one.strip() and not one.strip().startswith("enum: ")]))
        if said[0] != said[1]:
            lines = [f"-{one}" for one in said[0][0] + said[0][1] if one not in said[1][0] + said[1][1]] + [f"+{one}" for one in said[1][0] + said[1][1] if one not in said[0][0] + said[0][1]]
            found.append((f"kubectl explain {kind}", lines or next([f"-{one}", f"+{other}"] for one, other in zip(said[0][1], said[1][1]) if one != other)))
    return count, found
