//! What is read of an attachment of a volume without decoding it, and how attachments are named.

use api::Object;
use sha2::{Digest, Sha256};

/// The small projection of an attachment: each change of a pod asks for those of its node and of its volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachmentLite {
    /// `spec.nodeName`.
    pub node: Box<str>,
    /// `spec.source.persistentVolumeName`; empty for a volume that stands in the attachment itself.
    pub volume: Box<str>,
}

impl AttachmentLite {
    /// Paths that the projection reads: (top field, second field).
    pub(crate) const PATHS: &'static [(&'static str, &'static str)] = &[("spec", "nodeName"), ("spec", "source")];

    /// Reads the projection off a decoded (or pruned) attachment.
    pub fn of(attachment: &Object) -> AttachmentLite {
        let text = |path: &[&str]| attachment.text_at(path).into();
        AttachmentLite { node: text(&["spec", "nodeName"]), volume: text(&["spec", "source", "persistentVolumeName"]) }
    }
}

/// The name of the attachment of a driver's volume to a node, which controller and kubelet find without being told.
pub fn attachment_name(driver: &str, handle: &str, node: &str) -> String {
    let digest = Sha256::digest(format!("{handle}{driver}{node}").as_bytes());
    let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("csi-{digits}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn attachments_are_named_as_everybody_names_them() {
        // SHA-256 of "abc".
        let expected = "csi-ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(super::attachment_name("b", "a", "c"), expected);
    }
}
