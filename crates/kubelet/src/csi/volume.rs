//! What is asked of a driver for one volume of a pod: gathered from the pod, its claim, the bound volume and the driver's
//! object, before anything is done.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, CSIVolumeSource, PersistentVolume, PersistentVolumeClaim, Pod, Secret, SecretReference,
};
use k8s_openapi::api::storage::v1::{CSIDriver, CSIDriverSpec};
use serde_json::{Map, Value, json};

use super::messages::{AccessMode, BlockVolume, MountVolume, VolumeCapability};
use super::{Ability, Driver, hex, map};
use crate::Kubelet;
use crate::pods::model;
use crate::tokens::Request;
use crate::volumes::{VolumeError, ownership};

/// Key of the volume context under which tokens are handed over.
const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// A volume of a pod that a driver makes.
pub struct Wanted<'a> {
    /// The node.
    pub kubelet: &'a Kubelet,
    /// The pod.
    pub pod: &'a Pod,
    /// Name of the driver.
    pub driver: String,
    /// The volume as the driver knows it.
    pub handle: String,
    /// Name of its directory: that of the persistent volume, or of the pod's volume.
    pub spec_name: String,
    /// Type of its file system; empty for the driver's choice.
    pub fs_type: String,
    /// It may only be read.
    pub read_only: bool,
    /// It goes with its pod.
    pub ephemeral: bool,
    /// Its claim and the volume that this is bound to, unless it goes with the pod.
    pub bound: Option<(PersistentVolumeClaim, PersistentVolume)>,
    /// The driver's object; what it does not say has the defaults of the API.
    pub object: Option<CSIDriverSpec>,
    attributes: BTreeMap<String, String>,
    stage_secret: Option<SecretReference>,
    publish_secret: Option<SecretReference>,
    expand_secret: Option<SecretReference>,
}

impl<'a> Wanted<'a> {
    /// Of an inline volume.
    ///
    /// # Errors
    /// The driver makes no such volumes.
    pub async fn inline(kubelet: &'a Kubelet, pod: &'a Pod, name: &str, source: &CSIVolumeSource) -> Result<Wanted<'a>, VolumeError> {
        let secret = source.node_publish_secret_ref.as_ref();
        let namespace = model::namespace(pod).to_owned();
        let wanted = Wanted {
            kubelet,
            pod,
            driver: source.driver.clone(),
            handle: format!("csi-{}", hex(&format!("{}{name}", model::uid(pod)))),
            spec_name: name.to_owned(),
            fs_type: source.fs_type.clone().unwrap_or_default(),
            read_only: source.read_only == Some(true),
            ephemeral: true,
            bound: None,
            object: object(kubelet, &source.driver).await?,
            attributes: map(source.volume_attributes.as_ref()),
            stage_secret: None,
            publish_secret: secret.map(|secret| SecretReference { name: Some(secret.name.clone()), namespace: Some(namespace) }),
            expand_secret: None,
        };
        wanted.check_mode("Ephemeral")?;
        Ok(wanted)
    }

    /// Of a bound claim.
    ///
    /// # Errors
    /// The driver makes no such volumes.
    pub async fn persistent(
        kubelet: &'a Kubelet,
        pod: &'a Pod,
        read_only: bool,
        bound: (PersistentVolumeClaim, PersistentVolume),
        source: &CSIPersistentVolumeSource,
    ) -> Result<Wanted<'a>, VolumeError> {
        let wanted = Wanted {
            kubelet,
            pod,
            driver: source.driver.clone(),
            handle: source.volume_handle.clone(),
            spec_name: bound.1.metadata.name.clone().unwrap_or_default(),
            fs_type: source.fs_type.clone().unwrap_or_default(),
            read_only: read_only || source.read_only == Some(true),
            ephemeral: false,
            bound: Some(bound),
            object: object(kubelet, &source.driver).await?,
            attributes: map(source.volume_attributes.as_ref()),
            stage_secret: source.node_stage_secret_ref.clone(),
            publish_secret: source.node_publish_secret_ref.clone(),
            expand_secret: source.node_expand_secret_ref.clone(),
        };
        wanted.check_mode("Persistent")?;
        Ok(wanted)
    }

    fn check_mode(&self, mode: &str) -> Result<(), VolumeError> {
        let modes = match &self.object {
            Some(object) => {
                object.volume_lifecycle_modes.clone().filter(|modes| !modes.is_empty()).unwrap_or_else(|| vec!["Persistent".into()])
            }
            // Who has no object makes volumes that outlive their pods.
            None if self.ephemeral => {
                return Err(VolumeError::Refused(format!(
                    "volume mode {mode:?} not supported by driver {} (no CSIDriver object)",
                    self.driver
                )));
            }
            None => return Ok(()),
        };
        if modes.iter().any(|one| one == mode) {
            return Ok(());
        }
        Err(VolumeError::Refused(format!("volume mode {mode:?} not supported by driver {} (only supports {modes:?})", self.driver)))
    }

    /// Whether the volume must be attached to the node first.
    pub fn needs_attachment(&self) -> bool {
        !self.ephemeral && self.object.as_ref().and_then(|object| object.attach_required) != Some(false)
    }

    /// Whether it is published again and again, so that its content may change.
    pub fn is_republished(&self) -> bool {
        self.object.as_ref().and_then(|object| object.requires_republish) == Some(true)
    }

    /// The first access mode of the volume.
    fn access_mode(&self) -> &str {
        let modes = self.bound.as_ref().and_then(|(_, volume)| volume.spec.as_ref()?.access_modes.as_deref());
        modes.and_then(<[String]>::first).map_or("ReadWriteOnce", String::as_str)
    }

    /// Whether only one pod of the cluster may have it.
    pub fn is_for_one_pod(&self) -> bool {
        self.access_mode() == "ReadWriteOncePod"
    }

    /// How the volume shall be used, as the driver is told.
    pub fn capability(&self, driver: &Driver, block: bool) -> VolumeCapability {
        let fine = driver.can(Ability::SingleNodeModes);
        let mode = match (self.access_mode(), fine) {
            ("ReadOnlyMany", _) => 3,
            ("ReadWriteMany", _) => 5,
            ("ReadWriteOncePod", true) => 6,
            (_, true) => 7,
            _ => 1,
        };
        let flags = self.bound.as_ref().and_then(|(_, volume)| volume.spec.as_ref()?.mount_options.clone()).unwrap_or_default();
        let group = ownership::group(self.pod).filter(|_| driver.can(Ability::MountGroup));
        let mount = MountVolume { fs_type: self.fs_type.clone(), flags, group: group.map(|group| group.to_string()).unwrap_or_default() };
        VolumeCapability { block: block.then_some(BlockVolume {}), mount: (!block).then_some(mount), access: Some(AccessMode { mode }) }
    }

    /// The group that the kubelet itself gives the volume to.
    pub fn group(&self, driver: &Driver) -> Option<u32> {
        let group = ownership::group(self.pod).filter(|_| !driver.can(Ability::MountGroup) && !self.read_only)?;
        let modes = self.bound.as_ref().and_then(|(_, volume)| volume.spec.as_ref()?.access_modes.as_deref());
        let once = modes.is_none_or(|modes| modes.iter().any(|mode| mode == "ReadWriteOnce" || mode == "ReadWriteOncePod"));
        match self.object.as_ref().and_then(|object| object.fs_group_policy.as_deref()).unwrap_or("ReadWriteOnceWithFSType") {
            "None" => None,
            "File" => Some(group),
            _ => (once && !self.fs_type.is_empty()).then_some(group),
        }
    }

    /// What the driver is told of the volume when it is staged.
    pub fn stage_context(&self) -> BTreeMap<String, String> {
        self.attributes.clone()
    }

    /// What the driver is told when it is published, and the secrets for it.
    ///
    /// # Errors
    /// A secret or a token is not to be had.
    pub async fn publish_context(&self) -> Result<(BTreeMap<String, String>, BTreeMap<String, String>), VolumeError> {
        let mut context = self.attributes.clone();
        let mut secrets = secret(self.kubelet, self.publish_secret.as_ref()).await?;
        let Some(object) = &self.object else { return Ok((context, secrets)) };
        let account = self.pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone()).filter(|name| !name.is_empty());
        let account = account.unwrap_or_else(|| "default".into());
        if object.pod_info_on_mount == Some(true) {
            let facts = [
                ("pod.name", model::name(self.pod)),
                ("pod.namespace", model::namespace(self.pod)),
                ("pod.uid", model::uid(self.pod)),
                ("serviceAccount.name", &account),
                ("ephemeral", if self.ephemeral { "true" } else { "false" }),
            ];
            context.extend(facts.map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), value.to_owned())));
        }
        let mut tokens = Map::new();
        for asked in object.token_requests.iter().flatten() {
            let request = Request {
                namespace: model::namespace(self.pod),
                account: &account,
                pod_name: model::name(self.pod),
                pod_uid: model::uid(self.pod),
                audience: &asked.audience,
                seconds: asked.expiration_seconds.unwrap_or(3600),
            };
            let token = self.kubelet.tokens.get(&request).await?;
            tokens.insert(asked.audience.clone(), json!({"token": token.text, "expirationTimestamp": token.expires}));
        }
        if !tokens.is_empty() {
            let hidden = object.service_account_token_in_secrets == Some(true);
            let place = if hidden { &mut secrets } else { &mut context };
            place.insert(TOKENS.to_owned(), Value::Object(tokens).to_string());
        }
        Ok((context, secrets))
    }

    /// The secrets for staging.
    ///
    /// # Errors
    /// It is not to be had.
    pub async fn stage_secrets(&self) -> Result<BTreeMap<String, String>, VolumeError> {
        secret(self.kubelet, self.stage_secret.as_ref()).await
    }

    /// The secrets for growing.
    ///
    /// # Errors
    /// It is not to be had.
    pub async fn expand_secrets(&self) -> Result<BTreeMap<String, String>, VolumeError> {
        secret(self.kubelet, self.expand_secret.as_ref()).await
    }
}

async fn object(kubelet: &Kubelet, driver: &str) -> Result<Option<CSIDriverSpec>, VolumeError> {
    let found: Option<CSIDriver> = kubelet.client.find("", driver).await?;
    Ok(found.map(|object| object.spec))
}

async fn secret(kubelet: &Kubelet, reference: Option<&SecretReference>) -> Result<BTreeMap<String, String>, VolumeError> {
    let Some(reference) = reference else { return Ok(BTreeMap::new()) };
    let (namespace, name) = (reference.namespace.as_deref().unwrap_or(""), reference.name.as_deref().unwrap_or(""));
    let found: Secret = kubelet.client.get(namespace, name).await?;
    let texts = found.data.unwrap_or_default().into_iter();
    Ok(texts.map(|(key, value)| (key, String::from_utf8_lossy(&value.0).into_owned())).collect())
}
