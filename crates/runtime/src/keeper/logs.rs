//! A container's log in the format of the CRI: `<time> stdout|stderr F|P <text>`.
//!
//! What is read is written at once: text without a line end becomes a partial record (`P`) and the rest of its line
//! follows in further records, so nothing is kept in memory. When the disk refuses, the record is lost; a container
//! never waits for its log.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::spec::LogSpec;

/// Longest text of one record.
pub(super) const LONGEST: usize = 16 << 10;

/// Which of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Output,
    Error,
}

/// An open log.
pub(super) struct Log {
    spec: LogSpec,
    file: File,
    size: u64,
}

impl Log {
    /// Opens the file, with its directories. A link in place of the file is refused: the directory belongs to the node,
    /// but what lies in it may have been put there by a pod.
    pub(super) fn open(spec: &LogSpec) -> io::Result<Self> {
        if let Some(dir) = spec.path.parent() {
            fs::create_dir_all(dir)?;
        }
        let file = open(&spec.path)?;
        let size = file.metadata()?.len();
        Ok(Self { spec: spec.clone(), file, size })
    }

    /// Opens the file anew by its name.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        self.file = open(&self.spec.path)?;
        self.size = self.file.metadata()?.len();
        Ok(())
    }

    /// Writes what was read from a stream.
    pub(super) fn write(&mut self, stream: Stream, text: &[u8]) {
        let mut records = Vec::with_capacity(text.len() + 256);
        let name: &[u8] = if stream == Stream::Output { b" stdout " } else { b" stderr " };
        let time = rfc3339(crate::sys::now());
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let (tag, line): (&[u8], &[u8]) = match line.strip_suffix(b"\n") {
                Some(line) => (b"F ", line),
                None => (b"P ", line),
            };
            for part in [&time, name, tag, line, b"\n"] {
                records.extend_from_slice(part);
            }
            if records.len() > 2 * LONGEST {
                self.append(&records);
                records.clear();
            }
        }
        self.append(&records);
        if self.spec.max_size > 0 && self.size >= self.spec.max_size {
            self.rotate();
        }
    }

    fn append(&mut self, records: &[u8]) {
        if self.file.write_all(records).is_ok() {
            self.size += records.len() as u64;
        }
    }

    /// Moves the file aside under the time of the move and forgets the oldest. If that fails, the file just grows.
    fn rotate(&mut self) {
        let stamp = stamp(crate::sys::now());
        let aside = with_suffix(&self.spec.path, &stamp);
        if fs::rename(&self.spec.path, aside).is_err() || self.reopen().is_err() {
            self.size = 0;
            return;
        }
        let mut old = rotated(&self.spec.path);
        old.sort();
        let keep = (self.spec.max_files.max(1) - 1) as usize;
        for path in old.iter().take(old.len().saturating_sub(keep)) {
            let _gone = fs::remove_file(path);
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(libc::O_NOFOLLOW).open(path)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// Files that were moved aside earlier, ours or a kubelet's.
fn rotated(path: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Vec::new() };
    let prefix = format!("{}.", name.to_string_lossy());
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|e| e.file_name().to_string_lossy().starts_with(&prefix)).map(|e| e.path()).collect()
}

struct Civil {
    year: i64,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
    nanos: u32,
}

/// Calendar time of nanoseconds since 1970, UTC. Years are counted from March, so the leap day is the last of its year.
fn civil(nanos: i64) -> Civil {
    let seconds = nanos.div_euclid(1_000_000_000);
    let of_day = seconds.rem_euclid(86_400);
    let days = seconds.div_euclid(86_400) + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    Civil {
        year: year_of_era + era * 400 + i64::from(month <= 2),
        month: month as u8,
        day: (of_year - (153 * march_month + 2) / 5 + 1) as u8,
        hour: (of_day / 3600) as u8,
        minute: (of_day / 60 % 60) as u8,
        second: (of_day % 60) as u8,
        nanos: nanos.rem_euclid(1_000_000_000) as u32,
    }
}

fn rfc3339(nanos: i64) -> Vec<u8> {
    let t = civil(nanos);
    let Civil { year, month, day, hour, minute, second, nanos } = t;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z").into_bytes()
}

/// Sorts by time and cannot collide within one file: rotation is slower than a microsecond.
fn stamp(nanos: i64) -> String {
    let Civil { year, month, day, hour, minute, second, nanos } = civil(nanos);
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}.{:06}", nanos / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_print_as_the_standard_says() {
        for (nanos, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (1_475_712_997_669_794_202, "2016-10-06T00:16:37.669794202Z"),
            (1_709_164_799_000_000_001, "2024-02-28T23:59:59.000000001Z"),
            (1_709_251_199_999_999_999, "2024-02-29T23:59:59.999999999Z"),
            (4_102_444_800_000_000_000, "2100-01-01T00:00:00.000000000Z"),
        ] {
            assert_eq!(String::from_utf8(rfc3339(nanos)).expect("text"), text);
        }
    }

    #[test]
    fn records_tell_full_from_partial_and_rotate() {
        let dir = std::env::temp_dir().join(format!("knarr-log-{}", std::process::id()));
        let spec = LogSpec { path: dir.join("app/0.log"), max_size: 4096, max_files: 3 };
        let mut log = Log::open(&spec).expect("open");
        log.write(Stream::Output, b"one\n\ntwo");
        log.write(Stream::Error, b"\nerr\n");
        let text = fs::read_to_string(&spec.path).expect("read");
        let records: Vec<&str> = text.lines().map(|line| &line[31..]).collect();
        assert_eq!(records, ["stdout F one", "stdout F ", "stdout P two", "stderr F ", "stderr F err"]);
        for _ in 0..20 {
            log.write(Stream::Output, &[b'x'; 1500]);
            log.write(Stream::Output, b"\n");
        }
        assert_eq!(rotated(&spec.path).len(), 2);
        assert!(fs::metadata(&spec.path).expect("current").len() < 4096);
        fs::remove_dir_all(dir).expect("clean up");
    }
}
