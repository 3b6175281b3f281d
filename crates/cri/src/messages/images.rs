//! Messages about images and their file systems. Names, numbers and types are those of CRI v1;
//! what is never read here is left out.

#[allow(clippy::wildcard_imports, reason = "messages refer to one another")]
use super::*;
use grpc::messages;

messages! {
    ImageSpec {
        image: String = 1, annotations: Map = 2, user_specified_image: String = 18, runtime_handler: String = 19,
        image_ref: String = 20,
    }
    ImageFilter { image: Option<ImageSpec> = 1 }
    ListImagesRequest { filter: Option<ImageFilter> = 1 }
    Image {
        id: String = 1, repo_tags: Vec<String> = 2, repo_digests: Vec<String> = 3, size: u64 = 4, uid: Option<Int64Value> = 5,
        username: String = 6, spec: Option<ImageSpec> = 7, pinned: bool = 8,
    }
    ListImagesResponse { images: Vec<Image> = 1 }
    ImageStatusRequest { image: Option<ImageSpec> = 1, verbose: bool = 2 }
    ImageStatusResponse { image: Option<Image> = 1, info: Map = 2 }
    AuthConfig {
        username: String = 1, password: String = 2, auth: String = 3, server_address: String = 4, identity_token: String = 5,
        registry_token: String = 6,
    }
    PullImageRequest { image: Option<ImageSpec> = 1, auth: Option<AuthConfig> = 2, sandbox_config: Option<PodSandboxConfig> = 3 }
    PullImageResponse { image_ref: String = 1 }
    RemoveImageRequest { image: Option<ImageSpec> = 1 }
    RemoveImageResponse {}
    ImageFsInfoRequest {}
    FilesystemIdentifier { mountpoint: String = 1 }
    FilesystemUsage {
        timestamp: i64 = 1, fs_id: Option<FilesystemIdentifier> = 2, used_bytes: Option<UInt64Value> = 3,
        inodes_used: Option<UInt64Value> = 4,
    }
    ImageFsInfoResponse { image_filesystems: Vec<FilesystemUsage> = 1, container_filesystems: Vec<FilesystemUsage> = 2 }
}
