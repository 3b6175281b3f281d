//! Tokens from a file that was given at start: `token,user,uid,"group1,group2"` a line.

use std::collections::HashMap;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::Found;
use crate::user::User;

/// Tokens by their hash, so that looking one up tells nothing by its timing.
#[derive(Default)]
pub struct StaticTokens(HashMap<[u8; 32], User>);

impl StaticTokens {
    /// Reads a file; no file means no tokens.
    ///
    /// # Errors
    /// When the file cannot be read or a line has too few fields.
    pub fn read(path: Option<&Path>) -> anyhow::Result<StaticTokens> {
        let Some(path) = path else { return Ok(StaticTokens::default()) };
        let text = std::fs::read_to_string(path).map_err(|error| anyhow::anyhow!("cannot read token file {}: {error}", path.display()))?;
        let mut tokens = HashMap::new();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let fields: Vec<&str> = line.splitn(4, ',').collect();
            let [token, name, uid] = fields[..3.min(fields.len())] else {
                anyhow::bail!("token file {} line {}: token, user and uid are needed", path.display(), index + 1);
            };
            let groups = fields.get(3).map_or("", |groups| groups.trim().trim_matches('"'));
            let user = User {
                name: name.trim().to_owned(),
                uid: uid.trim().to_owned(),
                groups: groups.split(',').map(str::trim).filter(|group| !group.is_empty()).map(str::to_owned).collect(),
                ..User::default()
            };
            tokens.insert(Sha256::digest(token.trim()).into(), user);
        }
        Ok(StaticTokens(tokens))
    }

    /// The user of a token.
    pub fn authenticate(&self, token: &str) -> Found {
        if self.0.is_empty() {
            return Found::Nothing;
        }
        let hash: [u8; 32] = Sha256::digest(token).into();
        self.0.get(&hash).cloned().map_or(Found::Nothing, Found::User)
    }
}
