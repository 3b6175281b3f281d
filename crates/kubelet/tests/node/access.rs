//! A private image that is on the node already: for whom it is.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::{Value, json};

use crate::images::{CREDENTIAL, DebianRegistry};
use crate::registry::push;
use crate::world::{IMAGE, World, condition};

async fn secret(world: &World, name: &str, registry: &str, password: &str) {
    let config = json!({"auths": {registry: {"username": CREDENTIAL.0, "password": password}}}).to_string();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson", "metadata": {"name": name},
        "data": {".dockerconfigjson": STANDARD.encode(config)},
    });
    world.admin.call(Method::POST, "/api/v1/namespaces/default/secrets", &secret).await.expect("a secret");
}

fn of(image: &str, policy: &str, secret: Option<&str>) -> Value {
    let secrets: Vec<Value> = secret.iter().map(|name| json!({"name": name})).collect();
    let container = json!({"name": "main", "image": image, "command": ["/demo", "serve"], "imagePullPolicy": policy});
    json!({"containers": [container], "imagePullSecrets": secrets})
}

fn waiting(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]["state"]["waiting"]
}

pub async fn a_private_image_is_for_those_who_may_pull_it(world: World) {
    world.start("").await;
    let registry = DebianRegistry::start_private();
    push(&world, &registry, "team/app:1", 1 << 10);
    let at = registry.address.to_string();
    let image = format!("{at}/team/app:1");
    secret(&world, "right", &at, CREDENTIAL.1).await;
    secret(&world, "twin", &at, CREDENTIAL.1).await;
    secret(&world, "wrong", &at, "loud").await;
    world.running("owner", of(&image, "IfNotPresent", Some("right"))).await;
    for (name, given) in [("stranger", None), ("guesser", Some("wrong"))] {
        world.create(name, of(&image, "IfNotPresent", given)).await;
        let refused = world.pod(name, "has no image", |pod| waiting(pod)["reason"] == "ErrImagePull").await;
        let text = waiting(&refused)["message"].as_str().unwrap_or_default();
        assert!(text.contains("pull access denied, repository does not exist or may require authorization"), "{text}");
    }
    world.create("never", of(&image, "Never", None)).await;
    let refused = world.pod("never", "has no image", |pod| waiting(pod)["reason"] == "ErrImageNeverPull").await;
    assert_eq!(waiting(&refused)["message"], format!("Container image {image:?} is not present with pull policy of Never"));
    // As a volume too.
    let volume = |secret: Option<&str>| {
        let mut pod = of(IMAGE, "IfNotPresent", secret);
        pod["containers"][0]["volumeMounts"] = json!([{"name": "image", "mountPath": "/image"}]);
        pod["volumes"] = json!([{"name": "image", "image": {"reference": image, "pullPolicy": "IfNotPresent"}}]);
        pod
    };
    world.create("volume-of-a-stranger", volume(None)).await;
    world
        .eventually_async("the volume is refused", async || {
            let events = world.events("volume-of-a-stranger").await;
            events.iter().any(|event| event["message"].as_str().is_some_and(|text| text.contains("pull access denied")))
        })
        .await;

    // Who has the same needs no registry for it.
    drop(registry);
    world.running("same", of(&image, "IfNotPresent", Some("right"))).await;
    world.running("twin", of(&image, "Never", Some("twin"))).await;
    world.running("volume", volume(Some("twin"))).await;
    let said = format!("Container image {image:?} already present on machine and can be accessed by the pod");
    assert!(world.has_event("twin", "Pulled", &said).await);
    let stranger = world.pod("stranger", "still waits", |pod| condition(pod, "Ready")["status"] == "False").await;
    assert!(!waiting(&stranger).is_null());
    let records = std::fs::read_dir(world.kubelet_dir().join("image_manager/pulled")).expect("a folder");
    let records: Vec<Value> = records
        .map(|entry| serde_json::from_slice(&std::fs::read(entry.expect("an entry").path()).expect("a file")).expect("JSON"))
        .collect();
    assert_eq!((records.len(), &records[0]["kind"]), (1, &json!("ImagePulledRecord")));
    let secrets = records[0]["credentialMapping"][format!("{at}/team/app")]["kubernetesSecrets"].as_array().cloned().unwrap_or_default();
    let mut names: Vec<&str> = secrets.iter().filter_map(|secret| secret["name"].as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["right", "twin"]);
    assert!(!records[0].to_string().contains(CREDENTIAL.1));
}
