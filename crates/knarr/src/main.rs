//! Wiring only: flags to typed configurations to `run()` of the components.

fn main() {}
