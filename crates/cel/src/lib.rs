//! CEL syntax checking for admission.
