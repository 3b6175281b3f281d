//! Makes an image present by its pull policy and for those who may have it, with the events and reasons that users know.

use std::sync::Arc;
use std::time::Duration;

use client::EventKind;
use image::{Image, PullError, Reference, RegistryAuth};
use k8s_openapi::api::core::v1::Pod;

use crate::Kubelet;
use crate::image_access::{Offer, SecretUse, Source, Verdict, hash};
use crate::objects::ObjectKind;
use crate::pods::message::{Message, Trouble};
use crate::pods::model;
use crate::pods::start::Order;

/// An image that a pod asks for.
pub struct Wanted<'a> {
    /// The node.
    pub kubelet: &'a Arc<Kubelet>,
    /// The pod.
    pub pod: &'a Pod,
    /// The container that runs from it; empty for a volume.
    pub container: &'a str,
    /// Its name, as the pod gives it.
    pub asked: &'a str,
    /// Its pull policy.
    pub policy: &'a str,
}

/// The image of a container, pulled if the policy says so.
///
/// # Errors
/// `InvalidImageName`, `ErrImageNeverPull`, `ErrImagePull`.
pub async fn ensure(order: &Order) -> Result<Image, Trouble> {
    let wanted = Wanted {
        kubelet: &order.kubelet,
        pod: &order.pod,
        container: &order.member.spec.name,
        asked: order.member.spec.image.as_deref().unwrap_or_default(),
        policy: order.member.spec.image_pull_policy.as_deref().unwrap_or("IfNotPresent"),
    };
    wanted.have(order).await
}

/// The image of a volume that a container is about to use.
///
/// # Errors
/// As for the container's own.
pub async fn for_volume(order: &Order, asked: &str, policy: &str) -> Result<Image, Trouble> {
    Wanted { kubelet: &order.kubelet, pod: &order.pod, container: "", asked, policy }.have(order).await
}

impl Wanted<'_> {
    /// Looks, waits where it is too early to try again, and pulls.
    async fn have(&self, order: &Order) -> Result<Image, Trouble> {
        if let Some(image) = self.look().await? {
            return Ok(image);
        }
        if let Some((wait, text)) = self.back_off() {
            let name = &order.member.spec.name;
            self.kubelet.event(self.pod, name, EventKind::Warning, "Failed", "Error: ImagePullBackOff");
            let _ = order.sender.send(Message::Waiting { name: name.clone(), why: ("ImagePullBackOff".into(), text) });
            tokio::time::sleep(wait).await;
            if let Some(image) = self.look().await? {
                return Ok(image);
            }
        }
        self.pull().await
    }

    fn event(&self, kind: EventKind, reason: &str, message: &str) {
        self.kubelet.event(self.pod, self.container, kind, reason, message);
    }

    fn reference(&self) -> Result<Reference, Trouble> {
        let asked = self.asked;
        Reference::parse(asked).map_err(|error| {
            let text = format!("Failed to apply default image tag {asked:?}: couldn't parse image name {asked:?}: {error}");
            self.event(EventKind::Warning, "InspectFailed", &text);
            Trouble { image: true, ..Trouble::new("InvalidImageName", text) }
        })
    }

    /// The image that is here, unless it has to be pulled.
    async fn look(&self) -> Result<Option<Image>, Trouble> {
        let reference = self.reference()?;
        if self.policy == "Always" {
            return Ok(None);
        }
        if let Some(image) = self.kubelet.images.resolve(self.asked).await {
            let access = &self.kubelet.image_access;
            let allowed = match access.verdict(&reference, &image) {
                Verdict::Allowed => true,
                Verdict::Pull => false,
                Verdict::For(known) => access.fits(&reference, &image, &known, &self.offers(&reference).await),
            };
            if allowed {
                let asked = self.asked;
                let text = format!("Container image {asked:?} already present on machine and can be accessed by the pod");
                self.event(EventKind::Normal, "Pulled", &text);
                self.kubelet.images.mark_used(&image.id);
                return Ok(Some(image));
            }
        }
        if self.policy == "Never" {
            let text = format!("Container image {:?} is not present with pull policy of Never", self.asked);
            self.event(EventKind::Warning, "ErrImageNeverPull", &text);
            return Err(Trouble { image: true, ..Trouble::new("ErrImageNeverPull", text) });
        }
        Ok(None)
    }

    /// How long it is not tried yet after failures, and what is said meanwhile.
    fn back_off(&self) -> Option<(Duration, String)> {
        let (wait, why) = self.kubelet.pull_wait(self.asked, model::uid(self.pod))?;
        let text = format!("Back-off pulling image {:?}", self.asked);
        self.event(EventKind::Normal, "BackOff", &text);
        Some((wait, format!("{text}: {why}")))
    }

    async fn pull(&self) -> Result<Image, Trouble> {
        let (asked, uid) = (self.asked, model::uid(self.pod));
        let reference = self.reference()?;
        self.event(EventKind::Normal, "Pulling", &format!("Pulling image {asked:?}"));
        let offers = self.offers(&reference).await;
        let began = std::time::Instant::now();
        let intent = self.kubelet.image_access.intend(&reference).map_err(|error| {
            let text = format!("failed to record image pull intent for image {asked:?}: {error}");
            self.kubelet.pull_failed(asked, uid, format!("ErrImagePull: {text}"));
            self.event(EventKind::Warning, "Failed", &format!("Failed to pull image {asked:?}: {text}"));
            Trouble { image: true, ..Trouble::new("ErrImagePull", text) }
        })?;
        match self.first(&offers).await {
            Ok((image, source)) => {
                intent.pulled(&image.id, source);
                self.kubelet.pull_succeeded(asked, uid);
                let took = began.elapsed().as_millis();
                let text = format!(
                    "Successfully pulled image {asked:?} in {took}ms ({took}ms including waiting). Image size: {} bytes.",
                    image.size
                );
                self.event(EventKind::Normal, "Pulled", &text);
                Ok(image)
            }
            Err(error) => {
                intent.failed();
                let reason = if matches!(error, PullError::InvalidName { .. }) { "InvalidImageName" } else { "ErrImagePull" };
                self.kubelet.pull_failed(asked, uid, format!("{reason}: {error}"));
                self.event(EventKind::Warning, "Failed", &format!("Failed to pull image {asked:?}: {error}"));
                Err(Trouble { image: true, ..Trouble::new(reason, error.to_string()) })
            }
        }
    }

    /// Pulls with one credential after the other, so that it is known which one opened the registry; without any where there
    /// is none.
    async fn first<'a>(&self, offers: &'a [Offer]) -> Result<(Image, &'a Source), PullError> {
        let images = &self.kubelet.images;
        let mut last = match offers {
            [] => return images.pull(self.asked, &[]).await.map(|image| (image, &Source::Node)),
            [first, ..] => images.pull(self.asked, std::slice::from_ref(&first.auth)).await.map(|image| (image, &first.source)),
        };
        for offer in offers.iter().skip(1) {
            if last.is_ok() {
                break;
            }
            last = images.pull(self.asked, std::slice::from_ref(&offer.auth)).await.map(|image| (image, &offer.source));
        }
        last
    }

    /// The pod's credentials for the image, in the order in which they are tried: its pull secrets, then what programs know.
    async fn offers(&self, reference: &Reference) -> Vec<Offer> {
        let secrets = secrets(self.kubelet, self.pod).await;
        let programs = self.kubelet.credentials.of(self.kubelet, self.pod, reference).await;
        [secrets, programs].into_iter().flat_map(|offers| RegistryAuth::matching(offers, reference, |offer| &offer.auth)).collect()
    }
}

/// Credentials of the pod's pull secrets; secrets that are not there are left out, as upstream does.
async fn secrets(kubelet: &Arc<Kubelet>, pod: &Pod) -> Vec<Offer> {
    let mut offers = Vec::new();
    let named = pod.spec.as_ref().and_then(|spec| spec.image_pull_secrets.as_deref()).unwrap_or_default();
    for reference in named {
        let namespace = model::namespace(pod);
        let found = kubelet.objects.get(model::uid(pod), ObjectKind::Secret, namespace, &reference.name).await;
        let Ok(Some(entry)) = found else {
            let text =
                format!("Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.", reference.name);
            kubelet.event(pod, "", EventKind::Warning, "FailedToRetrieveImagePullSecret", &text);
            continue;
        };
        let data = crate::volumes::data_of(&entry);
        let parsed = match (data.get(".dockerconfigjson"), data.get(".dockercfg")) {
            (Some(config), _) => RegistryAuth::parse_docker_config_json(config),
            (None, Some(config)) => RegistryAuth::parse_docker_cfg(config),
            (None, None) => continue,
        };
        let offer = |auth: RegistryAuth| {
            let (uid, name) = (entry.header.uid.to_string(), reference.name.clone());
            let secret = SecretUse { uid, namespace: namespace.to_owned(), name, credential_hash: hash(&auth) };
            Offer { auth, source: Source::Secret(secret) }
        };
        match parsed {
            Ok(parsed) => offers.extend(parsed.into_iter().map(offer)),
            Err(error) => tracing::warn!(secret = reference.name, %error, "pull secret is not usable"),
        }
    }
    offers
}
