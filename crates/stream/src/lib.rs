//! Streams of kubectl exec, attach and port-forward: WebSocket and SPDY framing.
