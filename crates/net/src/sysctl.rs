//! Reading and writing `/proc/sys`, with a journal entry for what was there before.

use std::path::PathBuf;

use crate::journal::{Change, HostJournal};

/// Sets a sysctl, named by its path below `/proc/sys`, unless it has the value already.
pub(crate) fn ensure(path: &str, value: &str, journal: &HostJournal) -> std::io::Result<()> {
    let old = read(path)?;
    if old == value {
        return Ok(());
    }
    journal.record(Change::Sysctl { path: path.into(), old, new: value.into() })?;
    std::fs::write(file(path), value)
}

/// A sysctl's value without the line end.
pub(crate) fn read(path: &str) -> std::io::Result<String> {
    Ok(std::fs::read_to_string(file(path))?.trim().to_owned())
}

/// Puts a value back, unless somebody has set another one than ours since.
pub(crate) fn restore(path: &str, old: &str, ours: &str) -> std::io::Result<()> {
    let file = file(path);
    match std::fs::read_to_string(&file) {
        Ok(now) if now.trim() == ours => std::fs::write(file, old),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn file(path: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(path)
}
