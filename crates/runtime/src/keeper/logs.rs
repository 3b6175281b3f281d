//! A container's log in the format of the CRI: `<time> stdout|stderr F|P <text>`.
//!
//! What is read is written at once: text without a line end becomes a partial record (`P`) and the rest of its line
//! follows in further records, so nothing is kept in memory. When the disk refuses, the record is lost; a container
//! never waits for its log.

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use rustix::fs::{AtFlags, Mode, OFlags, openat};

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
    /// Opens the file, with its directories. A link in place of the file or of the two directories above it is refused,
    /// and so is what is no file: they belong to the node, but a pod that was given the directory of all logs may have
    /// exchanged them.
    pub(super) fn open(spec: &LogSpec) -> io::Result<Self> {
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
        let moved = move_aside(&self.spec.path, self.spec.max_files);
        if moved.is_err() || self.reopen().is_err() {
            self.size = 0;
        }
    }
}

fn move_aside(path: &Path, max_files: u32) -> io::Result<()> {
    let (folder, name) = (folder(path)?, file_name(path)?);
    let mut prefix = name.to_owned();
    prefix.push(".");
    let mut aside = prefix.clone();
    aside.push(stamp(crate::sys::now()));
    rustix::fs::renameat(&folder, name, &folder, &aside)?;
    let mut old = rotated(&folder, prefix.as_bytes())?;
    old.sort();
    let keep = (max_files.max(1) - 1) as usize;
    for name in old.iter().take(old.len().saturating_sub(keep)) {
        let _gone = rustix::fs::unlinkat(&folder, name, AtFlags::empty());
    }
    Ok(())
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(openat(&folder(path)?, file_name(path)?, flags, Mode::from_raw_mode(0o640))?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, "the log is no file")) }
}

fn file_name(path: &Path) -> io::Result<&OsStr> {
    path.file_name().ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// The directory of a log and the one above it, made where missing; what is above those two is the node's own.
fn folder(path: &Path) -> io::Result<OwnedFd> {
    let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let top = parent.ancestors().nth(2).filter(|top| !top.as_os_str().is_empty()).unwrap_or(Path::new("/"));
    fs::create_dir_all(top)?;
    let plain = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = rustix::fs::open(top, plain, Mode::empty())?;
    let below = parent.strip_prefix(top).map_err(io::Error::other)?;
    let parts: Vec<Component<'_>> = below.components().collect();
    for (place, part) in parts.iter().enumerate() {
        match rustix::fs::mkdirat(&at, part.as_os_str(), Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let kind = if place + 1 == parts.len() { OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC } else { plain };
        at = openat(&at, part.as_os_str(), kind | OFlags::NOFOLLOW, Mode::empty())?;
    }
    Ok(at)
}

/// Names of files that were moved aside earlier, by us or by a kubelet.
fn rotated(folder: &OwnedFd, prefix: &[u8]) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(folder)? {
        let entry = entry?;
        if entry.file_name().to_bytes().starts_with(prefix) {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
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
        assert_eq!(rotated(&folder(&spec.path).expect("a folder"), b"0.log.").expect("a list").len(), 2);
        assert!(fs::metadata(&spec.path).expect("current").len() < 4096);
        fs::remove_dir_all(dir).expect("clean up");
    }

    /// A pod that may write to the folder of all logs exchanges what lies in it.
    #[test]
    fn exchanged_logs_lead_nowhere() {
        use std::os::unix::fs::symlink;
        let top = tempfile::tempdir().expect("a folder");
        let (logs, outside) = (top.path().join("pods"), top.path().join("outside"));
        fs::create_dir_all(outside.join("app")).expect("a folder");
        fs::write(outside.join("secret"), "secret").expect("a file");
        fs::create_dir_all(logs.join("pod/app")).expect("a folder");
        symlink(outside.join("secret"), logs.join("pod/app/0.log")).expect("a link");
        symlink(outside.join("app"), logs.join("pod/linked")).expect("a link");
        symlink(&outside, logs.join("linked")).expect("a link");
        let fifo = (rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600));
        for name in ["1.log", "2.log"] {
            rustix::fs::mknodat(rustix::fs::CWD, logs.join("pod/app").join(name), fifo.0, fifo.1, 0).expect("a pipe");
        }
        // A pipe with somebody at its end can be opened.
        let _listens = File::options().read(true).write(true).open(logs.join("pod/app/2.log")).expect("an end");
        let spec = |path: &str| LogSpec { path: logs.join(path), max_size: 10, max_files: 3 };
        for path in ["pod/app/0.log", "pod/linked/0.log", "linked/app/0.log", "linked/new/0.log", "pod/app/1.log", "pod/app/2.log"] {
            assert!(Log::open(&spec(path)).is_err(), "{path}");
        }
        // Exchanged under an open log: what is written stays with the file, and rotation does not follow.
        let mut log = Log::open(&spec("pod/other/0.log")).expect("open");
        fs::rename(logs.join("pod/other"), logs.join("pod/aside")).expect("moved");
        fs::write(outside.join("app/0.log"), "theirs").expect("a file");
        symlink(outside.join("app"), logs.join("pod/other")).expect("a link");
        log.write(Stream::Output, b"a line that is long enough\n");
        assert!(log.reopen().is_err());
        let names: Vec<_> = fs::read_dir(outside.join("app")).expect("a folder").flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names, ["0.log"], "nothing was moved outside");
        assert_eq!(fs::read_to_string(outside.join("app/0.log")).expect("a file"), "theirs");
    }
}
