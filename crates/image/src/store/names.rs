//! Which image a text means, and the rule that a name belongs to one image only.

use std::sync::Arc;

use crate::index::Index;
use crate::reference::Reference;

/// Full ids, names and digest names.
pub(super) fn resolve_id(index: &Index, text: &str) -> Option<String> {
    let full = if text.starts_with("sha256:") { text.to_string() } else { format!("sha256:{text}") };
    if index.images.contains_key(&full) {
        return Some(full);
    }
    let reference = Reference::parse(text).ok()?;
    let name = match &reference.digest {
        Some(digest) => format!("{}@{digest}", reference.repository()),
        None => reference.to_string(),
    };
    index.named(&name).map(|(id, _)| id.clone())
}

/// As [`resolve_id`], and ids shortened to twelve digits or more. An error means that several fit.
pub(super) fn find_id(index: &Index, text: &str) -> Result<Option<String>, ()> {
    if let Some(id) = resolve_id(index, text) {
        return Ok(Some(id));
    }
    let digits = text.trim_start_matches("sha256:");
    if digits.len() < 12 {
        return Ok(None);
    }
    let mut fitting = index.images.keys().filter(|id| id["sha256:".len()..].starts_with(digits));
    match (fitting.next(), fitting.next()) {
        (Some(_), Some(_)) => Err(()),
        (found, _) => Ok(found.cloned()),
    }
}

/// A name belongs to one image. Who loses the last one was replaced and may be collected.
pub(super) fn take_name(index: &mut Index, name: &str, new_owner: &str) {
    let owners: Vec<String> = index
        .images
        .iter()
        .filter(|(_, record)| record.names.iter().chain(&record.digests).any(|known| known == name))
        .map(|(id, _)| id.clone())
        .collect();
    for owner in owners {
        let record = Arc::make_mut(index.images.get_mut(&owner).expect("the owner was just found"));
        record.names.retain(|known| known != name);
        record.digests.retain(|known| known != name);
        if owner != new_owner && record.names.is_empty() {
            record.imported = false;
        }
    }
}

pub(super) fn add_new(list: &mut Vec<String>, more: Vec<String>) {
    for name in more {
        if !list.contains(&name) {
            list.push(name);
        }
    }
}
