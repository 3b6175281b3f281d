//! Makes a container's image present by its pull policy, with the events and reasons that users know.

use client::EventKind;
use image::{Image, PullError, RegistryAuth};

use crate::objects::ObjectKind;
use crate::pods::message::{Message, Trouble};
use crate::pods::model;
use crate::pods::start::Order;

/// The image of a container, pulled if the policy says so.
///
/// # Errors
/// `InvalidImageName`, `ErrImageNeverPull`, `ErrImagePull`.
pub async fn ensure(order: &Order) -> Result<Image, Trouble> {
    let asked = order.member.spec.image.clone().unwrap_or_default();
    let images = &order.kubelet.images;
    let event = |kind, reason: &str, message: &str| order.kubelet.event(&order.pod, &order.member.spec.name, kind, reason, message);
    if let Err(error) = image::Reference::parse(&asked) {
        let text = format!("Failed to apply default image tag {asked:?}: couldn't parse image name {asked:?}: {error}");
        event(EventKind::Warning, "InspectFailed", &text);
        return Err(Trouble { image: true, ..Trouble::new("InvalidImageName", text) });
    }
    let local = images.resolve(&asked).await;
    let policy = order.member.spec.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
    match (policy, local) {
        ("IfNotPresent" | "Never", Some(image)) => {
            event(
                EventKind::Normal,
                "Pulled",
                &format!("Container image {asked:?} already present on machine and can be accessed by the pod"),
            );
            images.mark_used(&image.id);
            return Ok(image);
        }
        ("Never", None) => {
            let text = format!("Container image {asked:?} is not present with pull policy of Never");
            event(EventKind::Warning, "ErrImageNeverPull", &text);
            return Err(Trouble { image: true, ..Trouble::new("ErrImageNeverPull", text) });
        }
        _ => {}
    }
    if let Some(wait) = order.kubelet.pull_wait(&asked, model::uid(&order.pod)) {
        let text = format!("Back-off pulling image {asked:?}");
        event(EventKind::Normal, "BackOff", &text);
        let _ =
            order.sender.send(Message::Waiting { name: order.member.spec.name.clone(), why: ("ImagePullBackOff".into(), text.clone()) });
        tokio::time::sleep(wait).await;
        if let Some(image) = images.resolve(&asked).await.filter(|_| policy != "Always") {
            event(
                EventKind::Normal,
                "Pulled",
                &format!("Container image {asked:?} already present on machine and can be accessed by the pod"),
            );
            return Ok(image);
        }
    }
    event(EventKind::Normal, "Pulling", &format!("Pulling image {asked:?}"));
    let mut auths = secrets(order).await;
    if let Ok(reference) = image::Reference::parse(&asked) {
        auths.extend(order.kubelet.credentials.of(&order.kubelet, &order.pod, &reference).await);
    }
    let began = std::time::Instant::now();
    match images.pull(&asked, &auths).await {
        Ok(image) => {
            order.kubelet.pull_succeeded(&asked, model::uid(&order.pod));
            let took = began.elapsed().as_millis();
            event(
                EventKind::Normal,
                "Pulled",
                &format!("Successfully pulled image {asked:?} in {took}ms ({took}ms including waiting). Image size: {} bytes.", image.size),
            );
            Ok(image)
        }
        Err(error) => {
            order.kubelet.pull_failed(&asked, model::uid(&order.pod));
            let reason = if matches!(error, PullError::InvalidName { .. }) { "InvalidImageName" } else { "ErrImagePull" };
            event(EventKind::Warning, "Failed", &format!("Failed to pull image {asked:?}: {error}"));
            Err(Trouble { image: true, ..Trouble::new(reason, error.to_string()) })
        }
    }
}

/// Credentials of the pod's pull secrets; secrets that are not there are left out, as upstream does.
async fn secrets(order: &Order) -> Vec<RegistryAuth> {
    let mut auths = Vec::new();
    let named = order.pod.spec.as_ref().and_then(|spec| spec.image_pull_secrets.as_deref()).unwrap_or_default();
    for reference in named {
        let found =
            order.kubelet.objects.get(model::uid(&order.pod), ObjectKind::Secret, model::namespace(&order.pod), &reference.name).await;
        let Ok(Some(entry)) = found else {
            let text =
                format!("Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.", reference.name);
            order.kubelet.event(&order.pod, "", EventKind::Warning, "FailedToRetrieveImagePullSecret", &text);
            continue;
        };
        let data = crate::volumes::data_of(&entry);
        let parsed = match (data.get(".dockerconfigjson"), data.get(".dockercfg")) {
            (Some(config), _) => RegistryAuth::parse_docker_config_json(config),
            (None, Some(config)) => RegistryAuth::parse_docker_cfg(config),
            (None, None) => continue,
        };
        match parsed {
            Ok(parsed) => auths.extend(parsed),
            Err(error) => tracing::warn!(secret = reference.name, %error, "pull secret is not usable"),
        }
    }
    auths
}
