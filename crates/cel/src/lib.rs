//! CEL, the expression language of admission policies, match conditions and custom resource rules.
//!
//! Invariants: hostile text can neither exhaust the stack (depth is limited while parsing) nor run long (size is
//! limited); nothing here waits.

pub mod ast;
mod check;
mod eval;
mod functions;
mod lex;
mod parse;
pub mod policy;
pub mod rules;
mod signatures;
mod source;
pub mod types;
pub mod value;

pub use ast::{Expr, Node};
pub use check::{Env, Program};
pub use eval::{Budget, Failure, Names, Scope, evaluate};
pub use parse::parse;
pub use types::Type;
pub use value::{Host, Value};

/// Most characters of an expression.
pub const MAX_LENGTH: usize = 100_000;
/// Deepest nesting of an expression.
pub const MAX_DEPTH: usize = 250;

/// Checks that a text is a CEL expression; the error is the text that users see after `compilation failed: `.
pub fn check_syntax(text: &str) -> Result<(), String> {
    parse(text).map(drop)
}
