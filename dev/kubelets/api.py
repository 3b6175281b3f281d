"""The API server as the test sees it: single calls, and a watch that keeps what every pod and event last was."""

import http.client
import json
import ssl
import threading
import time


class Api:
    """Calls as the administrator, to the API server or to a kubelet."""

    def __init__(self, pki, host, port, known=True):
        self.host, self.port = host, port
        self.context = ssl.create_default_context(cafile=f"{pki}/ca.crt") if known else ssl._create_unverified_context()
        self.context.check_hostname = False
        self.context.load_cert_chain(f"{pki}/admin.crt", f"{pki}/admin.key")

    def connect(self, timeout=60):
        return http.client.HTTPSConnection(self.host, self.port, context=self.context, timeout=timeout)

    def call(self, method, path, body=None, kind="application/json"):
        """Status and bytes of the answer."""
        link = self.connect()
        link.request(method, path, body=None if body is None else json.dumps(body), headers={"Content-Type": kind} if body is not None else {})
        answer = link.getresponse()
        content = answer.read()
        link.close()
        return answer.status, content

    def ask(self, method, path, body=None, kind="application/json"):
        """The object that an answer is; a refusal is an error."""
        status, content = self.call(method, path, body, kind)
        if status >= 300:
            raise RuntimeError(f"{method} {path}: {status} {content.decode(errors='replace')[:600]}")
        return json.loads(content)


class World:
    """Every pod and event of some name spaces, kept up by watches. `changed` is notified of each change."""

    def __init__(self, api):
        self.api, self.changed = api, threading.Condition()
        self.pods, self.gone, self.events, self.history = {}, {}, {}, {}
        for resource in ("pods", "events"):
            threading.Thread(target=self._follow, args=(resource,), daemon=True).start()

    def _follow(self, resource):
        version = "0"
        while True:
            try:
                link = self.api.connect(timeout=600)
                link.request("GET", f"/api/v1/{resource}?watch=1&resourceVersion={version}")
                answer = link.getresponse()
                while line := answer.readline():
                    told = json.loads(line)
                    if told["type"] == "ERROR":
                        version = "0"
                        break
                    version = told["object"]["metadata"]["resourceVersion"]
                    with self.changed:
                        self._take(resource, told["type"], told["object"])
                        self.changed.notify_all()
            except (OSError, http.client.HTTPException):
                time.sleep(0.2)

    def _take(self, resource, kind, value):
        space = value["metadata"]["namespace"]
        if resource == "events":
            on = value["involvedObject"]
            self.events.setdefault((space, on.get("name", "")), {})[value["metadata"]["name"]] = value
            return
        key = (space, value["metadata"]["name"])
        self.history.setdefault(key, []).append((time.monotonic(), value))
        if kind == "DELETED":
            self.pods.pop(key, None)
            self.gone[key] = value
        else:
            self.pods[key] = value

    def until(self, test, seconds):
        """Waits until a test of the world holds; says whether it did."""
        end = time.monotonic() + seconds
        with self.changed:
            while not test(self):
                left = end - time.monotonic()
                if left <= 0:
                    return False
                self.changed.wait(min(left, 1))
        return True
