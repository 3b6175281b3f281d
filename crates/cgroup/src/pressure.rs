//! How long processes waited for a resource (pressure stall information): of a group where the unified hierarchy is mounted, of
//! the machine in any case, as far as the kernel counts it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::group::Group;

/// One kind of waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stall {
    /// All of it since the beginning, in microseconds.
    pub total_us: u64,
    /// Per cent of the last ten seconds.
    pub avg10: f64,
    /// Per cent of the last minute.
    pub avg60: f64,
    /// Per cent of the last five minutes.
    pub avg300: f64,
}

/// What one file says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// Somebody waited.
    pub some: Stall,
    /// Everybody did.
    pub full: Stall,
}

impl Group {
    /// The waiting for `cpu`, `memory` or `io`; none where the kernel does not count it.
    pub fn pressure(&self, resource: &str) -> Option<Pressure> {
        let of_group = self.unified_dir().map(|dir| dir.join(format!("{resource}.pressure")));
        let of_machine = || self.path().is_empty().then(|| Path::new("/proc/pressure").join(resource));
        let read = |path: PathBuf| fs::read_to_string(path).ok().and_then(|text| Pressure::parse(&text));
        of_group.and_then(read).or_else(|| of_machine().and_then(read))
    }
}

impl Pressure {
    /// Reads `some avg10=0.00 avg60=0.00 avg300=0.00 total=0` and the line `full` like it.
    fn parse(text: &str) -> Option<Pressure> {
        let of = |kind: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
            let value = |name: &str| line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            let share = |name: &str| value(name)?.parse().ok();
            let total_us = value("total")?.parse().ok()?;
            Some(Stall { total_us, avg10: share("avg10")?, avg60: share("avg60")?, avg300: share("avg300")? })
        };
        // Kernels before 5.13 have no line `full` for processors.
        Some(Pressure { some: of("some")?, full: of("full").unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lines_are_read() {
        let text = "some avg10=3.55 avg60=13.11 avg300=40.47 total=36151130698\nfull avg10=0.00 avg60=1.50 avg300=0.00 total=7\n";
        let some = Stall { total_us: 36_151_130_698, avg10: 3.55, avg60: 13.11, avg300: 40.47 };
        let full = Stall { total_us: 7, avg10: 0.0, avg60: 1.5, avg300: 0.0 };
        assert_eq!(Pressure::parse(text), Some(Pressure { some, full }));
        assert_eq!(Pressure::parse(text.lines().next().unwrap()), Some(Pressure { some, full: Stall::default() }));
        for wrong in ["", "some", "some avg10=0 total=1", "full avg10=0.00 avg60=0.00 avg300=0.00 total=0"] {
            assert_eq!(Pressure::parse(wrong), None, "{wrong}");
        }
    }
}
