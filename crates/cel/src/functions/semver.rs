//! Semantic versions.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::Failure;
use crate::eval::Budget;
use crate::value::Value;

use super::Answer;

/// A version such as `1.2.3-rc.1+build`; build metadata takes no part in the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Semver {
    major: u64,
    minor: u64,
    patch: u64,
    pre: Vec<Pre>,
}

/// One identifier of a pre-release. Numbers come before words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Pre {
    Number(u64),
    Word(String),
}

impl Semver {
    fn parse(text: &str, normalize: bool) -> Option<Semver> {
        let text = if normalize { text.strip_prefix('v').unwrap_or(text) } else { text };
        let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
        let word = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if build.is_some_and(|build| !build.split('.').all(word)) {
            return None;
        }
        let (core, pre) = text.split_once('-').map_or((text, None), |(core, pre)| (core, Some(pre)));
        let mut parts = core.split('.');
        let mut number = || -> Option<u64> {
            let part = match parts.next() {
                Some(part) => part,
                None if normalize => return Some(0),
                None => return None,
            };
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            (digits && (normalize || part == "0" || !part.starts_with('0'))).then(|| part.parse().ok())?
        };
        let (major, minor, patch) = (number()?, number()?, number()?);
        if parts.next().is_some() {
            return None;
        }
        let mut pres = Vec::new();
        for part in pre.into_iter().flat_map(|pre| pre.split('.')) {
            if !word(part) {
                return None;
            }
            pres.push(match part.bytes().all(|byte| byte.is_ascii_digit()) {
                true if part.len() > 1 && part.starts_with('0') => return None,
                true => Pre::Number(part.parse().ok()?),
                false => Pre::Word(part.to_owned()),
            });
        }
        Some(Semver { major, minor, patch, pre: pres })
    }

    fn order(&self, other: &Semver) -> Ordering {
        let core = (self.major, self.minor, self.patch).cmp(&(other.major, other.minor, other.patch));
        core.then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => self.pre.cmp(&other.pre),
        })
    }
}

pub(super) fn global<'a>(name: &str, args: &[Value<'a>], budget: &Budget) -> Answer<'a> {
    let (text, normalize) = match args {
        [Value::String(text)] => (text, false),
        [Value::String(text), Value::Bool(normalize)] => (text, *normalize),
        _ => return None,
    };
    match name {
        "semver" | "isSemver" => {
            if let Err(failure) = budget.scan(text.len()) {
                return Some(Err(failure));
            }
            let version = Semver::parse(text, normalize);
            Some(match (name, version) {
                ("isSemver", version) => Ok(Value::Bool(version.is_some())),
                (_, Some(version)) => Ok(Value::Semver(Arc::new(version))),
                (_, None) => Err(Failure::new(format!("invalid semver: {text}"))),
            })
        }
        _ => None,
    }
}

pub(super) fn method<'a>(target: &Value<'a>, name: &str, args: &[Value<'a>], _: &Budget) -> Answer<'a> {
    let Value::Semver(version) = target else { return None };
    let value = match (name, args) {
        ("major", []) => Value::Int(version.major as i64),
        ("minor", []) => Value::Int(version.minor as i64),
        ("patch", []) => Value::Int(version.patch as i64),
        ("isGreaterThan", [Value::Semver(other)]) => Value::Bool(version.order(other).is_gt()),
        ("isLessThan", [Value::Semver(other)]) => Value::Bool(version.order(other).is_lt()),
        ("compareTo", [Value::Semver(other)]) => Value::Int(version.order(other) as i64),
        _ => return None,
    };
    Some(Ok(value))
}
