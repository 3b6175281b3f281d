//! Certificates, keys, service account tokens and their renewal.
