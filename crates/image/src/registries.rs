//! `registries.yaml`, compatible with k3s.

/// Mirrors, credentials and TLS settings by registry. The default value uses every registry directly.
#[derive(Clone, Debug, Default)]
pub struct Registries {}

/// Why the file was refused.
#[derive(Debug, thiserror::Error)]
pub enum RegistriesError {
    /// The file cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        path: std::path::PathBuf,
        error: std::io::Error,
    },
    /// Not YAML or not of the known form.
    #[error("registries file: {0}")]
    Parse(String),
}

impl Registries {
    /// Parses the text of a `registries.yaml`.
    pub fn parse(_text: &str) -> Result<Registries, RegistriesError> {
        unimplemented!("written in the next commit")
    }

    /// Reads the file; a missing file means no settings.
    pub fn load(_path: &std::path::Path) -> Result<Registries, RegistriesError> {
        unimplemented!("written in the next commit")
    }
}
