//! Variables that a container takes from a file of its pod, `fileKeyRef` (KEP-3721): another container wrote it into an
//! `emptyDir`, so that neither its content nor the way to it can be trusted.
//!
//! A file has lines `NAME='value'`. A value may go on over lines and holds whatever stands between its quotes; blank lines and
//! those that begin with `#` are skipped, and a comment may follow a value. The first line of a name counts.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

/// Longest line in bytes.
const LONGEST_LINE: u64 = 64 * 1024;
/// So much of a file is read in bytes; a program takes far less of an environment.
const MOST: u64 = 4 * 1024 * 1024;

/// What a file says of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Its value, never empty.
    Value(String),
    /// Nothing, or nothing between the quotes. With the file's path on the node.
    Nothing(PathBuf),
}

/// The file is not there, or not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("couldn't parse env file")]
pub struct Unreadable;

/// Looks a name up in the file at `path` of a volume. Links mean what they would mean to a process whose root
/// the volume is, and what is not a plain file is
/// not opened for reading.
///
/// # Errors
/// See [`Unreadable`].
pub fn read(volume: &Path, path: &str, name: &str) -> Result<Found, Unreadable> {
    let top = rustix::fs::open(volume, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let (flags, resolve) =
        (OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS);
    let file = top.and_then(|top| rustix::fs::openat2(top, path, flags, Mode::empty(), resolve)).map_err(|_| Unreadable)?;
    let kind = rustix::fs::fstat(&file).map(|stat| FileType::from_raw_mode(stat.st_mode));
    if kind != Ok(FileType::RegularFile) {
        return Err(Unreadable);
    }
    let shown = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(|_| Unreadable)?;
    let value = look_up(BufReader::new(File::from(file).take(MOST)), name)?;
    Ok(value.filter(|value| !value.is_empty()).map_or(Found::Nothing(shown), Found::Value))
}

fn look_up(mut file: impl BufRead, name: &str) -> Result<Option<String>, Unreadable> {
    while let Some(line) = next(&mut file)? {
        let line = line.trim_ascii_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (own, rest) = line.split_once('=').ok_or(Unreadable)?;
        if own.is_empty() || own.ends_with([' ', '\t']) || rest.is_empty() {
            return Err(Unreadable);
        }
        // As in a shell, white space ends a value before it began.
        let value = if rest.starts_with([' ', '\t']) { String::new() } else { quoted(rest, &mut file)? };
        if own == name {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// The value that begins with a quote, if need be with the lines that follow.
fn quoted(begin: &str, file: &mut impl BufRead) -> Result<String, Unreadable> {
    let mut line = begin.strip_prefix('\'').ok_or(Unreadable)?.to_owned();
    let mut value = String::new();
    loop {
        if let Some((last, behind)) = line.split_once('\'') {
            value.push_str(last);
            let comment = behind.trim_ascii_start();
            return if comment.is_empty() || comment.starts_with('#') { Ok(value) } else { Err(Unreadable) };
        }
        value.push_str(&line);
        value.push('\n');
        line = next(file)?.ok_or(Unreadable)?;
    }
}

/// The next line without its end.
fn next(file: &mut impl BufRead) -> Result<Option<String>, Unreadable> {
    let mut line = Vec::new();
    file.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line).map_err(|_| Unreadable)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.pop_if(|last| *last == b'\n').is_some() {
        line.pop_if(|last| *last == b'\r');
    } else if line.len() as u64 == LONGEST_LINE {
        return Err(Unreadable);
    }
    Ok(Some(String::from_utf8_lossy(&line).into_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// What a file says of K: a value, `-` for nothing, `!` for a file that is not as it should be.
    fn check(content: &str, wanted: &str) {
        let said = match look_up(content.as_bytes(), "K") {
            Ok(Some(value)) => value,
            Ok(None) => "-".into(),
            Err(Unreadable) => "!".into(),
        };
        assert_eq!(said, wanted, "{content:?}");
    }

    #[test]
    fn values_are_quoted_and_the_first_counts() {
        for (content, wanted) in [
            ("K='v w'", "v w"),
            ("# c\n\n \t# d\n  K='v'", "v"),
            ("K='a\nb' # c\n", "a\nb"),
            ("K='v'#c", "v"),
            ("K='1'\nK='2'", "1"),
            ("K='v'\r\n", "v"),
            ("1A='x'\na.b='y'\nexport Z='z'\nA B='v'\nK='$v#\\n'", "$v#\\n"),
            ("K='v'\nnonsense", "v"),
            ("Z= 'x'\nK='v'", "v"),
            ("K=''\nK='v'", ""),
            ("K= 'v'", ""),
            ("export K='v'", "-"),
            ("k='v'", "-"),
            ("", "-"),
        ] {
            check(content, wanted);
        }
        for content in ["K=v", "K=\"v\"", "K='a''b'", "K ='v'", "nonsense\nK='v'", "K='v", "K='v'x", "K='v' x", "='v'", "K=\nZ='1'"] {
            check(content, "!");
        }
    }

    #[test]
    fn what_is_too_long_is_no_file() {
        let line = |length: u64| format!("K='{}'\n", "a".repeat(length as usize - 5));
        check(&line(LONGEST_LINE), &"a".repeat(LONGEST_LINE as usize - 5));
        check(&line(LONGEST_LINE + 1), "!");
    }

    #[test]
    fn links_stay_in_the_volume() {
        let top = tempfile::tempdir().unwrap();
        let (volume, outside) = (top.path().join("volume"), top.path().join("outside"));
        std::fs::create_dir(&volume).unwrap();
        std::fs::write(&outside, "K='secret'").unwrap();
        std::fs::write(volume.join("own"), "K='own'").unwrap();
        symlink("own", volume.join("near")).unwrap();
        symlink(&outside, volume.join("absolute")).unwrap();
        symlink("../outside", volume.join("relative")).unwrap();
        symlink(format!("/proc/self/root{}", outside.display()), volume.join("magic")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, volume.join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(read(&volume, "near", "K"), Ok(Found::Value("own".into())));
        assert_eq!(read(&volume, "/own", "K"), Ok(Found::Value("own".into())));
        assert_eq!(read(&volume, "near", "Z"), Ok(Found::Nothing(volume.join("own"))));
        for path in ["absolute", "relative", "magic", "../outside", "pipe", ".", "absent"] {
            assert_eq!(read(&volume, path, "K"), Err(Unreadable), "{path}");
        }
    }
}
