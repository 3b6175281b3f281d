//! Images of another runtime.

use std::path::Path;
use std::time::{Duration, SystemTime};

use image::{GcPolicy, GcReport, Image, ImageConfigView, RegistryAuth, StoreUsage};

use super::{CALL, Remote};
use crate::messages::{
    AuthConfig, Image as Shown, ImageFsInfoRequest, ImageFsInfoResponse, ImageSpec, ImageStatusRequest, ImageStatusResponse,
    ListImagesRequest, ListImagesResponse, PullImageRequest, PullImageResponse, RemoveImageRequest, RemoveImageResponse,
};
use grpc::Failure;

/// Longest pull.
const PULL: Duration = Duration::from_secs(3600);

fn named(name: &str) -> Option<ImageSpec> {
    Some(ImageSpec { image: name.to_owned(), ..ImageSpec::default() })
}

fn image(shown: Shown) -> Image {
    // What an image runs by default is its runtime's to know; only as whom is told.
    let user = shown.uid.map_or(shown.username, |uid| uid.value.to_string());
    Image {
        id: shown.id,
        names: shown.repo_tags,
        digests: shown.repo_digests,
        size: shown.size,
        config: ImageConfigView { user, ..ImageConfigView::default() },
        pinned: shown.pinned,
        imported: false,
        last_used: SystemTime::now(),
    }
}

impl Remote {
    /// The image of a name or id, if it is there.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn image(&self, name: &str) -> Result<Option<Image>, Failure> {
        let request = ImageStatusRequest { image: named(name), verbose: false };
        let answer: ImageStatusResponse = self.call_images("ImageStatus", &request, Some(CALL)).await?;
        Ok(answer.image.map(image))
    }

    /// Pulls an image with the first credential that opens it.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn pull(&self, name: &str, auths: &[RegistryAuth]) -> Result<Image, Failure> {
        let given = auths.iter().map(|auth| {
            Some(AuthConfig {
                username: auth.username.clone(),
                password: auth.password.clone(),
                identity_token: auth.identity_token.clone(),
                registry_token: auth.registry_token.clone(),
                ..AuthConfig::default()
            })
        });
        let tries: Vec<Option<AuthConfig>> = if auths.is_empty() { vec![None] } else { given.collect() };
        let mut failed = None;
        for auth in tries {
            let request = PullImageRequest { image: named(name), auth, sandbox_config: None };
            match self.call_images::<PullImageResponse>("PullImage", &request, Some(PULL)).await {
                Ok(pulled) => {
                    let there = self.image(&pulled.image_ref).await?;
                    let missing = || Failure::new(grpc::Code::NotFound, format!("image {name:?} is not there after its pull"));
                    return there.ok_or_else(missing);
                }
                Err(failure) => failed = Some(failure),
            }
        }
        Err(failed.expect("there was at least one try"))
    }

    /// All images.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn list_images(&self) -> Result<Vec<Image>, Failure> {
        let answer: ListImagesResponse = self.call_images("ListImages", &ListImagesRequest { filter: None }, Some(CALL)).await?;
        Ok(answer.images.into_iter().map(image).collect())
    }

    /// Room that images take.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn images_usage(&self) -> Result<StoreUsage, Failure> {
        let answer: ImageFsInfoResponse = self.call_images("ImageFsInfo", &ImageFsInfoRequest {}, Some(CALL)).await?;
        let usage = answer.image_filesystems.into_iter().next().unwrap_or_default();
        let number = |value: Option<crate::messages::UInt64Value>| value.map_or(0, |value| value.value);
        Ok(StoreUsage { bytes: number(usage.used_bytes), inodes: number(usage.inodes_used) })
    }

    /// Where images lie.
    pub fn images_dir(&self) -> &Path {
        &self.images_dir
    }

    /// Removes images that nobody uses until enough room is free, the largest first: when they were used nobody tells.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn collect_images(&self, policy: &GcPolicy) -> Result<GcReport, Failure> {
        let mut report = GcReport::default();
        let mut images = self.list_images().await?;
        images.retain(|image| !image.pinned && !policy.in_use.contains(&image.id));
        images.sort_by_key(|image| std::cmp::Reverse(image.size));
        for image in images {
            if report.freed >= policy.bytes_to_free {
                break;
            }
            let request = RemoveImageRequest { image: named(&image.id) };
            match self.call_images::<RemoveImageResponse>("RemoveImage", &request, Some(CALL)).await {
                Ok(_) => {
                    report.freed += image.size;
                    report.removed.push(image);
                }
                Err(failure) => tracing::debug!(image = image.id, "image stays: {failure}"),
            }
        }
        Ok(report)
    }
}
