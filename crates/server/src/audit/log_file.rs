//! The audit log as a file: one event a line, written before the answer goes out, rotated by size.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use crate::security::AuditSettings;

/// A log file.
pub struct LogFile {
    path: PathBuf,
    max_size: u64,
    max_backups: usize,
    max_age: Option<Duration>,
    open: Mutex<Option<Open>>,
}

struct Open {
    file: File,
    size: u64,
}

impl LogFile {
    /// Opens the log, to be continued.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn open(path: &Path, settings: &AuditSettings) -> io::Result<LogFile> {
        let megabytes = if settings.max_size_megabytes == 0 { 100 } else { u64::from(settings.max_size_megabytes) };
        let log = LogFile {
            path: path.to_owned(),
            max_size: megabytes << 20,
            max_backups: settings.max_backups as usize,
            max_age: (settings.max_age_days > 0).then(|| Duration::from_secs(u64::from(settings.max_age_days) * 24 * 3600)),
            open: Mutex::new(None),
        };
        if !log.is_stdout() {
            *log.open.lock() = Some(log.append()?);
        }
        Ok(log)
    }

    fn is_stdout(&self) -> bool {
        self.path == Path::new("-")
    }

    fn append(&self) -> io::Result<Open> {
        if let Some(parent) = self.path.parent().filter(|parent| *parent != Path::new("")) {
            std::fs::create_dir_all(parent)?;
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?;
        let size = file.metadata()?.len();
        Ok(Open { file, size })
    }

    /// Writes one line, which ends in a line end.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn write(&self, line: &[u8]) -> io::Result<()> {
        if self.is_stdout() {
            return io::stdout().lock().write_all(line);
        }
        let mut open = self.open.lock();
        let is_full = open.as_ref().is_some_and(|open| open.size > 0 && open.size + line.len() as u64 > self.max_size);
        if is_full {
            *open = None;
            self.rotate()?;
        }
        if open.is_none() {
            *open = Some(self.append()?);
        }
        let current = open.as_mut().expect("opened above");
        current.size += line.len() as u64;
        current.file.write_all(line)
    }

    /// `audit.log` becomes `audit-2026-01-31T10-00-00.000.log`; what is too old or too many goes.
    fn rotate(&self) -> io::Result<()> {
        let now = jiff::Timestamp::now();
        let time = now.strftime("%Y-%m-%dT%H-%M-%S").to_string();
        let (stem, end) = self.names();
        let millis = now.as_millisecond().rem_euclid(1000);
        std::fs::rename(&self.path, self.path.with_file_name(format!("{stem}-{time}.{millis:03}{end}")))?;
        let mut backups = self.backups()?;
        backups.sort();
        let excess = if self.max_backups == 0 { 0 } else { backups.len().saturating_sub(self.max_backups) };
        for (index, path) in backups.iter().enumerate() {
            let written = std::fs::metadata(path).and_then(|metadata| metadata.modified()).unwrap_or_else(|_| SystemTime::now());
            let is_old = self.max_age.is_some_and(|age| written.elapsed().is_ok_and(|since| since > age));
            if index < excess || is_old {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn names(&self) -> (String, String) {
        let text = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned()).unwrap_or_default();
        let end = text(self.path.extension());
        (text(self.path.file_stem()), if end.is_empty() { end } else { format!(".{end}") })
    }

    fn backups(&self) -> io::Result<Vec<PathBuf>> {
        let (stem, end) = self.names();
        let folder = self.path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let time = name.strip_prefix(&format!("{stem}-")).and_then(|rest| rest.strip_suffix(&end));
            if time
                .is_some_and(|time| time.len() == "2026-01-31T10-00-00.000".len() && time.starts_with(|char: char| char.is_ascii_digit()))
            {
                found.push(path);
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_files_are_rotated_and_few_are_kept() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("audit.log");
        let settings = AuditSettings { max_size_megabytes: 1, max_backups: 2, ..AuditSettings::default() };
        let log = LogFile::open(&path, &settings).expect("it opens");
        let line = vec![b'x'; 600 << 10];
        for _ in 0..5 {
            log.write(&line).expect("it is written");
            // Names of rotated files differ in their milliseconds.
            let before = jiff::Timestamp::now().as_millisecond();
            while jiff::Timestamp::now().as_millisecond() == before {
                std::thread::yield_now();
            }
        }
        assert_eq!(log.backups().expect("the folder can be read").len(), 2);
        assert_eq!(std::fs::metadata(&path).expect("it is there").len(), 600 << 10);
        drop(log);
        LogFile::open(&path, &settings).and_then(|log| log.write(b"y\n")).expect("it goes on");
        assert_eq!(std::fs::metadata(&path).expect("it is there").len(), (600 << 10) + 2);
    }
}
