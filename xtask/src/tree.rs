//! The project's Rust files, read once for all rules.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// One file.
pub struct File {
    /// Path from the root, with `/`.
    pub path: String,
    /// Its text.
    pub text: String,
}

impl File {
    /// The first paragraph of the opening documentation, on one line.
    pub fn opening(&self) -> String {
        let lines = self.text.lines().map_while(|line| line.strip_prefix("//!"));
        lines.map(str::trim).take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
    }
}

/// All files, sorted by path.
pub struct Tree {
    /// The files.
    pub files: Vec<File>,
}

impl Tree {
    /// Reads the tree below the working directory.
    pub fn read() -> Result<Tree> {
        let mut files = Vec::new();
        for root in ["crates", "xtask", "bench"] {
            walk(Path::new(root), &mut files)?;
        }
        files.sort_by(|left, right| left.path.cmp(&right.path));
        Ok(Tree { files })
    }
}

fn walk(folder: &Path, files: &mut Vec<File>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                walk(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            files.push(File { path: path.to_string_lossy().into_owned(), text });
        }
    }
    Ok(())
}
