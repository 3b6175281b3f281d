//! SPDY/3.1 as Kubernetes clients use it.
