//! Development tasks: `gen` writes generated files, `tidy` checks the tree, `ci` runs both.

fn main() {}
