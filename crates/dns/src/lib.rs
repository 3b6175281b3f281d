//! Cluster DNS in process.
