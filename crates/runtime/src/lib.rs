//! OCI bundle to processes: spawn, keeper, exec, logs.
