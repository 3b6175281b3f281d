//! Who may use an image that is here already. An image that was pulled with somebody's credentials is for those who can show them,
//! or credentials that the registry takes now; otherwise a node would hand private images to every pod that knows their names.
//!
//! ```text
//! image here --policy: to be verified?--no--> use it
//!                   |yes
//!            record of its pulls --everybody's, same secret, same account--> use it
//!                   |nothing fits
//!            pull it (the registry decides)
//! ```

mod records;

use std::sync::Arc;
use std::time::SystemTime;

use image::{Image, Reference, RegistryAuth};
use sha2::{Digest as _, Sha256};

pub use records::{AccountUse, Credentials, Intent, Records, SecretUse};

/// When credentials are verified (`imagePullCredentialsVerificationPolicy`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Policy {
    /// Whoever is on the node may use its images.
    NeverVerify,
    /// Only images that this node has pulled are verified.
    #[default]
    NeverVerifyPreloadedImages,
    /// All images but those of these names.
    NeverVerifyAllowlistedImages(Allowlist),
    /// All images.
    AlwaysVerify,
}

/// Images that nobody has to show credentials for (`preloadedImagesVerificationAllowlist`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allowlist {
    names: Vec<String>,
    prefixes: Vec<String>,
}

/// Why a policy was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PolicyError {
    /// No policy of that name.
    #[error("unknown image pull credentials verification policy {0:?}")]
    Unknown(String),
    /// The list is for one policy.
    #[error("a preloaded images verification allowlist needs the policy NeverVerifyAllowlistedImages")]
    NotForThis,
    /// An entry that is neither the name of an image without tag nor a prefix that ends in `/*`.
    #[error("allowlist entry {0:?} is neither an image name without tag and digest nor a prefix that ends in \"/*\"")]
    Pattern(String),
}

impl Policy {
    /// The policy of these words; the empty one is the default.
    ///
    /// # Errors
    /// Words that are none.
    pub fn parse(policy: &str, allowlist: &[String]) -> Result<Policy, PolicyError> {
        if !allowlist.is_empty() && policy != "NeverVerifyAllowlistedImages" {
            return Err(PolicyError::NotForThis);
        }
        match policy {
            "" | "NeverVerifyPreloadedImages" => Ok(Policy::NeverVerifyPreloadedImages),
            "NeverVerify" => Ok(Policy::NeverVerify),
            "AlwaysVerify" => Ok(Policy::AlwaysVerify),
            "NeverVerifyAllowlistedImages" => Allowlist::parse(allowlist).map(Policy::NeverVerifyAllowlistedImages),
            other => Err(PolicyError::Unknown(other.to_owned())),
        }
    }

    fn verifies(&self, image: &Reference, pulled_here: bool) -> bool {
        match self {
            Policy::NeverVerify => false,
            Policy::NeverVerifyPreloadedImages => pulled_here,
            Policy::NeverVerifyAllowlistedImages(list) => !list.holds(&image.repository()),
            Policy::AlwaysVerify => true,
        }
    }
}

impl Allowlist {
    fn parse(entries: &[String]) -> Result<Allowlist, PolicyError> {
        let mut list = Allowlist::default();
        for entry in entries {
            let refused = || PolicyError::Pattern(entry.clone());
            if let Some(prefix) = entry.strip_suffix('*').filter(|prefix| prefix.ends_with('/')) {
                if prefix.len() == 1 || prefix.contains('*') || prefix.trim() != prefix {
                    return Err(refused());
                }
                list.prefixes.push(prefix.to_owned());
                continue;
            }
            let parsed = Reference::parse(entry).map_err(|_| refused())?;
            if parsed.repository() != *entry {
                return Err(refused());
            }
            list.names.push(entry.clone());
        }
        Ok(list)
    }

    fn holds(&self, repository: &str) -> bool {
        self.names.iter().any(|name| name == repository) || self.prefixes.iter().any(|prefix| repository.starts_with(prefix))
    }
}

/// A credential that a pod can show, and where it comes from.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The credential.
    pub auth: RegistryAuth,
    /// Whose it is.
    pub source: Source,
}

/// Whose a credential is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The node's: all its pods have it.
    Node,
    /// A pull secret's.
    Secret(SecretUse),
    /// A service account's.
    Account(AccountUse),
}

impl Source {
    /// What is written down of a pull with it.
    pub fn credentials(&self) -> Credentials {
        match self {
            Source::Node => Credentials { node_pods_accessible: true, ..Credentials::default() },
            Source::Secret(secret) => Credentials { kubernetes_secrets: vec![secret.clone()], ..Credentials::default() },
            Source::Account(account) => Credentials { kubernetes_service_accounts: vec![account.clone()], ..Credentials::default() },
        }
    }
}

/// What stands for a credential in a record, since the credential itself must not.
pub fn hash(auth: &RegistryAuth) -> String {
    let mut hasher = Sha256::new();
    for part in [&auth.username, &auth.password, &auth.identity_token, &auth.registry_token] {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    records::hex(&hasher.finalize())
}

/// The answer for an image that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The pod may use it.
    Allowed,
    /// It has to be pulled again.
    Pull,
    /// It is for those who have one of these.
    For(Credentials),
}

/// Decides, and keeps records of what was pulled.
pub struct ImageAccess {
    policy: Policy,
    records: Arc<Records>,
}

impl ImageAccess {
    /// Keeps its records below this folder.
    ///
    /// # Errors
    /// The folders cannot be made.
    pub fn open(policy: Policy, root: &std::path::Path) -> std::io::Result<ImageAccess> {
        Ok(ImageAccess { policy, records: Arc::new(Records::open(&root.join("image_manager"))?) })
    }

    /// Takes up what an earlier run left: pulls that it had begun may have come to their end unseen.
    pub fn recover(&self, images: &[Image]) {
        if !images.is_empty() {
            self.records.settle(images);
            self.forget_others(images, SystemTime::now());
        }
    }

    /// Forgets images that were no longer here at that time. Where there are none at all, perhaps nobody could tell: nothing is
    /// forgotten then, since an image without record is everybody's.
    pub fn forget_others(&self, images: &[Image], at: SystemTime) {
        if !images.is_empty() {
            self.records.forget_others(images, at);
        }
    }

    /// Whether a pod may use an image that is here, as far as it can be told without its credentials.
    pub fn verdict(&self, reference: &Reference, image: &Image) -> Verdict {
        let known = match self.records.of(reference, &image.id) {
            Ok(known) => known,
            Err(error) => {
                tracing::error!(image = %reference, %error, "what is known of pulls cannot be read");
                return Verdict::Pull;
            }
        };
        if !self.policy.verifies(reference, known.pulled_here) {
            return Verdict::Allowed;
        }
        match known.credentials {
            Some(credentials) if credentials.node_pods_accessible => Verdict::Allowed,
            Some(credentials) if !credentials.is_empty() => Verdict::For(credentials),
            _ => Verdict::Pull,
        }
    }

    /// Whether one of these credentials is among those that the image was pulled with. A secret that holds the same as a known
    /// one, or that is a known one with a new content, is known from then on.
    pub fn fits(&self, reference: &Reference, image: &Image, known: &Credentials, offers: &[Offer]) -> bool {
        let mut found = None;
        for offer in offers {
            match &offer.source {
                Source::Node => {}
                Source::Account(account) if known.kubernetes_service_accounts.contains(account) => return true,
                Source::Account(_) => {}
                Source::Secret(secret) => {
                    let same_content =
                        |other: &&SecretUse| !other.credential_hash.is_empty() && other.credential_hash == secret.credential_hash;
                    if known.kubernetes_secrets.contains(secret) {
                        return true;
                    }
                    if known.kubernetes_secrets.iter().any(|other| same_content(&other) || other.same_object(secret)) {
                        found.get_or_insert(&offer.source);
                    }
                }
            }
        }
        if let Some(source) = found.filter(|_| known.kubernetes_secrets.len() < records::MOST) {
            self.records.add(reference, &image.id, Some(&source.credentials()));
        }
        found.is_some()
    }

    /// Notes that an image is about to be pulled.
    ///
    /// # Errors
    /// It could not be written down, so that the image must not come.
    pub fn intend(&self, reference: &Reference) -> std::io::Result<Intent> {
        Records::intend(&self.records, reference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn policies_are_read_strictly() {
        let list = "NeverVerifyAllowlistedImages";
        for (policy, allowlist, good) in [
            ("", &[][..], true),
            ("NeverVerify", &[], true),
            ("NeverVerify", &["r.io/a"], false),
            ("", &["r.io/a"], false),
            ("Sometimes", &[], false),
            (list, &["r.io/a", "r.io/team/*", "docker.io/library/busybox"], true),
            (list, &["busybox"], false),
            (list, &["r.io/a:1"], false),
            (list, &["r.io/*/a"], false),
            (list, &["r.io/a*"], false),
            (list, &["/*"], false),
            (list, &["*"], false),
            (list, &[" r.io/a"], false),
        ] {
            assert_eq!(Policy::parse(policy, &words(allowlist)).is_ok(), good, "{policy} {allowlist:?}");
        }
    }

    fn image(id: &str) -> Image {
        Image {
            id: id.into(),
            names: vec!["r.io/team/app:1".into()],
            digests: Vec::new(),
            size: 1,
            config: image::ImageConfigView::default(),
            pinned: false,
            imported: false,
            last_used: std::time::SystemTime::now(),
        }
    }

    fn secret(uid: &str, password: &str) -> Offer {
        let auth = RegistryAuth { registry: "r.io".into(), username: "u".into(), password: password.into(), ..RegistryAuth::default() };
        let credential_hash = hash(&auth);
        let source = SecretUse { uid: uid.into(), namespace: "default".into(), name: "pull".into(), credential_hash };
        Offer { auth, source: Source::Secret(source) }
    }

    fn account(uid: &str) -> Offer {
        let source = AccountUse { uid: uid.into(), namespace: "default".into(), name: "account".into() };
        Offer { auth: RegistryAuth::default(), source: Source::Account(source) }
    }

    /// Whether a pod that offers this need not pull.
    fn allowed(access: &ImageAccess, name: &str, offers: &[Offer]) -> bool {
        let (reference, image) = (Reference::parse(name).unwrap(), image("sha256:1"));
        match access.verdict(&reference, &image) {
            Verdict::Allowed => true,
            Verdict::Pull => false,
            Verdict::For(known) => access.fits(&reference, &image, &known, offers),
        }
    }

    fn pull(access: &ImageAccess, name: &str, source: &Source) {
        access.intend(&Reference::parse(name).unwrap()).unwrap().pulled("sha256:1", source);
    }

    #[test]
    fn policies_decide_over_images_that_nobody_pulled() {
        let list = words(&["r.io/team/*"]);
        for (policy, team, other) in [
            (Policy::NeverVerify, true, true),
            (Policy::NeverVerifyPreloadedImages, true, true),
            (Policy::parse("NeverVerifyAllowlistedImages", &list).unwrap(), true, false),
            (Policy::AlwaysVerify, false, false),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let access = ImageAccess::open(policy.clone(), dir.path()).unwrap();
            assert_eq!(allowed(&access, "r.io/team/app:1", &[]), team, "{policy:?}");
            assert_eq!(allowed(&access, "r.io/other/app:1", &[secret("1", "p")]), other, "{policy:?}");
        }
    }

    #[test]
    fn an_image_is_for_those_it_was_pulled_for() {
        let dir = tempfile::tempdir().unwrap();
        let open = || ImageAccess::open(Policy::default(), dir.path()).unwrap();
        let access = open();
        pull(&access, "r.io/team/app:1", &secret("1", "first").source);
        for (offers, expected) in [
            (vec![], false),
            (vec![secret("2", "second")], false),
            (vec![account("1")], false),
            (vec![secret("1", "first")], true),
            (vec![secret("2", "second"), secret("3", "first")], true),
            // The third is known by now, whatever it holds.
            (vec![secret("3", "third")], true),
            (vec![secret("4", "third")], true),
        ] {
            // By another tag too, but by no other name.
            assert_eq!(allowed(&access, "r.io/team/app:1", &offers), expected, "{offers:?}");
            assert_eq!(allowed(&open(), "r.io/team/app:2", &offers), expected, "{offers:?}");
            assert!(!allowed(&access, "r.io/team/other:1", &offers));
        }
        pull(&access, "r.io/team/app:1", &account("1").source);
        assert!(allowed(&access, "r.io/team/app:1", &[account("1")]) && !allowed(&access, "r.io/team/app:1", &[account("2")]));
        pull(&access, "r.io/team/app:1", &Source::Node);
        assert!(allowed(&access, "r.io/team/app:1", &[]));
        pull(&access, "r.io/team/app:1", &secret("9", "ninth").source);
        assert!(allowed(&open(), "r.io/team/app:1", &[]), "what was everybody's stays so");
    }

    #[test]
    fn pulls_that_nobody_saw_the_end_of_are_verified() {
        let dir = tempfile::tempdir().unwrap();
        let access = ImageAccess::open(Policy::default(), dir.path()).unwrap();
        let reference = Reference::parse("r.io/team/app:1").unwrap();
        access.intend(&reference).unwrap().failed();
        assert!(allowed(&access, "r.io/team/app:1", &[]), "nothing came of it");
        drop(access.intend(&reference).unwrap());
        assert!(!allowed(&access, "r.io/team/app:1", &[secret("1", "p")]));
        let access = ImageAccess::open(Policy::default(), dir.path()).unwrap();
        access.recover(&[image("sha256:1")]);
        assert!(!allowed(&access, "r.io/team/app:1", &[secret("1", "p")]));
        let pulling = dir.path().join("image_manager/pulling");
        assert_eq!(std::fs::read_dir(&pulling).unwrap().count(), 0);
        pull(&access, "r.io/team/app:1", &secret("1", "p").source);
        assert!(allowed(&access, "r.io/team/app:1", &[secret("1", "p")]));
        let later = SystemTime::now() + std::time::Duration::from_secs(10);
        access.recover(&[]);
        access.forget_others(&[], later);
        access.forget_others(&[image("sha256:1")], later);
        assert!(!allowed(&access, "r.io/team/app:1", &[]));
        access.forget_others(&[image("sha256:2")], later);
        assert_eq!(std::fs::read_dir(dir.path().join("image_manager/pulled")).unwrap().count(), 0);
    }
}
