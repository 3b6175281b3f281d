//! System-call filters: profiles in, programs for the kernel out.
//!
//! A [`Profile`] is a default action and rules in order; the first rule that fits decides. [`compile`] is called once per
//! container by the main process, so the keeper carries neither profiles nor the compiler in its memory.

mod calls;
mod default;
mod oci;
mod program;

use crate::spec::Seccomp;

/// What happens at a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Allow,
    /// Fails with this error number.
    Errno(u32),
    KillThread,
    KillProcess,
    Trap,
    Trace(u32),
    Log,
}

/// How an argument is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// Equal to the value under this mask.
    Masked(u64),
}

/// A condition on one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Condition {
    argument: u8,
    comparison: Comparison,
    value: u64,
}

/// One system call under all of some conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    call: u32,
    conditions: Vec<Condition>,
    action: Action,
}

/// A filter before it is compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Profile {
    default: Action,
    rules: Vec<Rule>,
}

/// A profile that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProfileError {
    /// Not in the form of the OCI specification.
    #[error("seccomp profile: {0}")]
    Parse(String),
    /// More than the kernel takes.
    #[error("seccomp profile has {0} instructions, the kernel takes 4096")]
    TooLong(usize),
}

/// The program for a container; none when it is not filtered.
pub(crate) fn compile(wanted: &Seccomp, capabilities: &[String]) -> Result<Option<Vec<u8>>, ProfileError> {
    let profile = match wanted {
        Seccomp::Unconfined => return Ok(None),
        Seccomp::RuntimeDefault => default::profile(capabilities),
        Seccomp::Custom(json) => oci::parse(json, capabilities)?,
    };
    program::assemble(&profile).map(Some)
}
