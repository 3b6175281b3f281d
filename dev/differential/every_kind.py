"""The same walk of calls for every built-in resource, with the objects that the tests of the crate `api` have recorded."""

import json
import pathlib

from relaxed import Call, Group

GOLDEN = pathlib.Path(__file__).parents[2] / "crates/api/tests/golden"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
PARTIAL = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
PARTIAL_LIST = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
PROTOBUF = "application/vnd.kubernetes.protobuf"

# What the server itself writes into objects of a kind some time after they were made.
WRITTEN = {"FlowSchema": "Dangling", "APIService": "Available", "CustomResourceDefinition": "InitialNamesAccepted"}


def compact(value):
    """JSON without white space, which raw parts of objects would keep."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def recorded(*names):
    """Objects that were sent to the real server once."""
    return [one["request"] for name in names for one in json.loads((GOLDEN / f"{name}.json").read_text())]


def discovered(server):
    """Resources by group version and kind."""
    found = {}
    for path in ("/api", "/apis"):
        call = Call("GET", path)
        _, _, body = server.send(call, path, {"Accept": "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"}, None)
        for group in json.loads(body)["items"]:
            name = group["metadata"].get("name", "")
            for version in group["versions"]:
                for resource in version["resources"]:
                    api = f"{name}/{version['version']}" if name else version["version"]
                    found.setdefault((api, resource["responseKind"]["kind"] or resource["resource"]), resource)
    return found


def collection(api, resource, namespace="<ns>"):
    """The path of a resource's objects."""
    start = f"/apis/{api}" if "/" in api else f"/api/{api}"
    middle = f"/namespaces/{namespace}" if resource["scope"] == "Namespaced" else ""
    return f"{start}{middle}/{resource['resource']}"


def harmless(one):
    """The object, made so that it judges no other calls."""
    one = json.loads(json.dumps(one))
    nothing = {"matchLabels": {"walk": "nothing"}}
    for hook in one.get("webhooks", []):
        hook["objectSelector"] = nothing
        # What `differences.txt` calls empty-bundle.
        if hook["clientConfig"].get("caBundle") == "":
            del hook["clientConfig"]["caBundle"]
    constraints = one.get("spec", {}).get("matchConstraints")
    if constraints:
        constraints["objectSelector"] = nothing
    return one


def walk(api, kind, resource, objects):
    """The calls for one resource: the first object is walked through, the others are created."""
    base, verbs = collection(api, resource), set(resource["verbs"])
    first = objects[0]
    name = first["metadata"]["name"]
    one, body, calls = f"{base}/{name}", compact(first), []

    def add(method, path, content=None, **headers):
        calls.append(Call(method, path, {key.replace("_", "-"): value for key, value in headers.items()}, {}, content))
        return calls[-1]

    def settled(name):
        if kind in WRITTEN:
            calls.append(Call("GET", f"{base}/{name}", has=WRITTEN[kind]))

    add("POST", f"{base}?dryRun=All", body)
    made = add("POST", f"{base}?fieldManager=walk", body)
    made.keep["rv"], made.keep["uid"] = "metadata.resourceVersion", "metadata.uid"
    add("POST", base, body)
    settled(name)
    for accept in ("application/json", TABLE, PARTIAL, PROTOBUF, "application/yaml", "application/json;pretty=1"):
        add("GET", one, Accept=accept)
    for accept in ("application/json", TABLE, PARTIAL_LIST, PROTOBUF):
        add("GET", f"{base}?labelSelector=walk!=x&fieldSelector=metadata.name={name}", Accept=accept)
    add("GET", f"{base}?fieldSelector=spec.none=x")
    calls.append(Call("GET", f"{base}?watch=1&resourceVersion=0&fieldSelector=metadata.name={name}&timeoutSeconds=5", events=1))
    add("PUT", one, compact({**first, "metadata": {"name": name, "resourceVersion": "1"}}))
    add("PATCH", one, '{"metadata":{"labels":{"walk":"merge"}}}', Content_Type="application/merge-patch+json")
    add("PATCH", one, '{"metadata":{"annotations":{"walk":"strategic"}}}', Content_Type="application/strategic-merge-patch+json")
    add("PATCH", one, '[{"op":"add","path":"/metadata/labels/json","value":"1"}]', Content_Type="application/json-patch+json")
    apply = json.dumps({"apiVersion": api, "kind": kind, "metadata": {"name": name, "labels": {"walk": "apply"}}})
    add("PATCH", f"{one}?fieldManager=other", apply, Content_Type="application/apply-patch+yaml")
    add("PATCH", f"{one}?fieldManager=other&force=true", apply, Content_Type="application/apply-patch+yaml")
    add("PATCH", one, '{"spec":{"noSuchField":1}}', Content_Type="application/merge-patch+json")
    add("PATCH", f"{one}?fieldValidation=Strict", '{"spec":{"noSuchField":1},"metadata":{"more":2}}', Content_Type="application/merge-patch+json")
    add("GET", one, Accept=PROTOBUF)
    calls.append(Call("SAME", one))
    add("PUT", one, body)
    for sub in resource.get("subresources", []):
        if sub["subresource"] in ("status", "scale"):
            add("GET", f"{one}/{sub['subresource']}")
            calls.append(Call("SAME", f"{one}/{sub['subresource']}"))
            add("PATCH", f"{one}/{sub['subresource']}", '{"metadata":{"annotations":{"by":"status"}}}', Content_Type="application/merge-patch+json")
    for other in objects[1:]:
        add("POST", base, compact(other))
        settled(other["metadata"]["name"])
    add("GET", base if resource["scope"] == "Namespaced" else f"{base}?fieldSelector=metadata.name={name}", Accept=TABLE)
    if resource["scope"] != "Namespaced":
        for other in objects[1:]:
            add("DELETE", f"{base}/{other['metadata']['name']}")
    add("DELETE", f"{one}?dryRun=All")
    add("DELETE", one, '{"preconditions":{"uid":"00000000-0000-0000-0000-000000000000"}}')
    add("DELETE", one, '{"propagationPolicy":"Orphan","gracePeriodSeconds":0}')
    if kind == "CustomResourceDefinition":
        # The Go server at times leaves one of several terminating until it is asked for again, and its documents with it.
        calls.extend(Call("DELETE", f"{base}/{gone['metadata']['name']}", until=404) for gone in objects)
    add("GET", one)
    add("GET", f"{base}/none-such")
    if "deletecollection" in verbs and resource["scope"] == "Namespaced":
        add("DELETE", base)
        add("GET", base)
    return Group(f"every kind {kind} of {api}", calls)


def groups(server):
    """A walk for every resource, and the refused objects."""
    resources, objects, walks = discovered(server), {}, []
    for one in recorded("valid", "more_valid"):
        objects.setdefault((one["apiVersion"], one["kind"]), []).append(harmless(one))
    for (api, kind), some in objects.items():
        resource = resources.get((api, kind))
        if resource and kind not in ("Namespace",):
            names = set()
            fresh = [one for one in some if not (one["metadata"]["name"] in names or names.add(one["metadata"]["name"]))]
            walks.append(walk(api, kind, resource, fresh))
    refused = {}
    for one in recorded("invalid", "more_invalid"):
        resource = resources.get((one["apiVersion"], one["kind"]))
        if resource:
            refused.setdefault(one["kind"], []).append(Call("POST", collection(one["apiVersion"], resource), {}, {}, compact(one)))
    walks += [Group(f"refused {kind}", calls) for kind, calls in refused.items()]
    return walks
