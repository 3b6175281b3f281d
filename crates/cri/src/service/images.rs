//! The image service.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::{Image as Stored, PullError, RegistryAuth, RemoveError};

use super::{Service, now};
use crate::messages::*;
use grpc::{Code, Failure};

impl Service {
    pub(super) async fn list_images(&self, request: ListImagesRequest) -> Result<ListImagesResponse, Failure> {
        let wanted = request.filter.and_then(|filter| filter.image).map(|image| image.image).filter(|name| !name.is_empty());
        let images = match wanted {
            Some(name) => self.images.resolve(&name).into_iter().collect(),
            None => self.images.list(),
        };
        Ok(ListImagesResponse { images: images.iter().map(shown).collect() })
    }

    pub(super) async fn image_status(&self, request: ImageStatusRequest) -> Result<ImageStatusResponse, Failure> {
        let name = request.image.unwrap_or_default().image;
        Ok(ImageStatusResponse { image: self.images.resolve(&name).as_ref().map(shown), info: Map::new() })
    }

    pub(super) async fn pull_image(&self, request: PullImageRequest) -> Result<PullImageResponse, Failure> {
        let name = request.image.unwrap_or_default().image;
        let auths: Vec<RegistryAuth> = request.auth.map(auth).transpose()?.into_iter().collect();
        match self.images.pull(&name, &auths).await {
            Ok(image) => Ok(PullImageResponse { image_ref: image.id }),
            Err(error) => {
                let code = if matches!(error, PullError::InvalidName { .. }) { Code::InvalidArgument } else { Code::Unknown };
                Err(Failure::new(code, Failure::internal(&error).message))
            }
        }
    }

    pub(super) async fn remove_image(&self, request: RemoveImageRequest) -> Result<RemoveImageResponse, Failure> {
        match self.images.remove(&request.image.unwrap_or_default().image).await {
            Ok(()) | Err(RemoveError::NotFound(_)) => Ok(RemoveImageResponse {}),
            Err(error @ RemoveError::InUse(_)) => Err(Failure::new(Code::FailedPrecondition, error.to_string())),
            Err(error) => Err(Failure::internal(&error)),
        }
    }

    pub(super) async fn image_fs_info(&self, _: ImageFsInfoRequest) -> Result<ImageFsInfoResponse, Failure> {
        let usage = self.images.usage();
        let of_images = FilesystemUsage {
            timestamp: now(),
            fs_id: Some(FilesystemIdentifier { mountpoint: self.images.dir().to_string_lossy().into_owned() }),
            used_bytes: Some(UInt64Value { value: usage.bytes }),
            inodes_used: Some(UInt64Value { value: usage.inodes }),
        };
        // What containers write lies on the same file system, as with other runtimes by default.
        Ok(ImageFsInfoResponse { container_filesystems: vec![of_images.clone()], image_filesystems: vec![of_images] })
    }
}

fn shown(image: &Stored) -> Image {
    let user = image.config.user.split(':').next().unwrap_or("");
    let uid = user.parse::<i64>().ok();
    Image {
        id: image.id.clone(),
        repo_tags: image.names.clone(),
        repo_digests: image.digests.clone(),
        size: image.size,
        username: if uid.is_some() { String::new() } else { user.to_owned() },
        uid: uid.map(|value| Int64Value { value }),
        spec: Some(ImageSpec { image: image.id.clone(), ..ImageSpec::default() }),
        pinned: image.pinned,
    }
}

/// A credential that its giver has chosen for this image.
fn auth(auth: AuthConfig) -> Result<RegistryAuth, Failure> {
    let mut given = RegistryAuth {
        registry: String::new(),
        username: auth.username,
        password: auth.password,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
    };
    if given.username.is_empty() && !auth.auth.is_empty() {
        let invalid = || Failure::new(Code::InvalidArgument, "the credential's auth is not user:password in base64");
        let text = STANDARD.decode(auth.auth.trim_end_matches('\0')).map_err(|_| invalid())?;
        let text = String::from_utf8(text).map_err(|_| invalid())?;
        let (user, password) = text.split_once(':').ok_or_else(invalid)?;
        given.username = user.to_owned();
        given.password = password.trim_end_matches('\0').to_owned();
    }
    Ok(given)
}
