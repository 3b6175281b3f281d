//! Finds the program of a container in its root and lets it take over.

use std::ffi::CString;
use std::io;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, FileType};

use super::environment;

/// Executes `argv` with `env`; returns only the reason why it did not, worded as people know it.
pub(super) fn execute(argv: &[String], env: &[String]) -> String {
    let name = &argv[0];
    let path = match find(name, env) {
        Ok(path) => path,
        Err(why) => return format!("exec: {name:?}: {why}"),
    };
    let strings = |list: &[String]| list.iter().map(|text| CString::new(text.as_bytes())).collect::<Result<Vec<_>, _>>();
    let (Ok(program), Ok(argv), Ok(env)) = (CString::new(path.as_bytes()), strings(argv), strings(env)) else {
        return format!("exec: {name:?}: argument or variable contains a zero byte");
    };
    let error = crate::sys::process::execute(&program, &argv, &env);
    format!("exec {path}: {}", plain(&error))
}

/// The path of a program: as given when it contains a slash, else the first executable file along `PATH`.
fn find(name: &str, env: &[String]) -> Result<String, String> {
    if name.is_empty() {
        return Err("no command specified".into());
    }
    if name.contains('/') {
        return match usable(name) {
            Ok(()) => Ok(name.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(format!("stat {name}: no such file or directory")),
            Err(error) => Err(plain(&error)),
        };
    }
    let mut denied = false;
    for dir in environment::value(env, "PATH").unwrap_or("").split(':') {
        let dir = if dir.is_empty() { "." } else { dir };
        let path = format!("{}/{name}", dir.trim_end_matches('/'));
        match usable(&path) {
            Ok(()) => return Ok(path),
            Err(error) => denied |= error.kind() == io::ErrorKind::PermissionDenied,
        }
    }
    Err(if denied { "permission denied".into() } else { "executable file not found in $PATH".into() })
}

fn usable(path: &str) -> io::Result<()> {
    let kind = FileType::from_raw_mode(rustix::fs::stat(Path::new(path))?.st_mode);
    if kind == FileType::Directory {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "is a directory"));
    }
    Ok(rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)?)
}

/// An error of the kernel in the words of the C library, without Rust's number.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or("").to_owned();
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_lowercase().collect::<String>() + letters.as_str())
}
