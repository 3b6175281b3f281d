//! What Kubernetes objects are: the schema table, objects, keys, statuses and the behaviour of kinds.
