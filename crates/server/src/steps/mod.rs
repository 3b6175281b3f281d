//! The steps of a request, one file each. A step returns a value that the next one needs, so a verb cannot leave one out.
//!
//! `identify -> classify -> admit -> authorize -> decode -> default -> mutate -> validate -> commit -> encode`

pub mod admit;
pub mod authorize;
pub mod commit;
pub mod convert;
pub mod decode;
pub mod default;
pub mod encode;
pub mod identify;
pub mod mutate;
pub mod options;
pub mod prepare;
pub mod update;
pub mod validate;
