//! Huge pages of pods and containers as limits of their control groups, and the size of the pages of a volume.
//!
//! Every size that the machine knows is limited, and to nothing where a pod asks for none: pages are handed out to pods by their
//! requests, and who took some without asking would take them from others.

use std::collections::BTreeSet;

use api::Quantity;
use cgroup::HugepageLimit;
use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};

use super::limits::requested;
use crate::placement::machine::{huge_page_resource, huge_page_unit};

/// Begin of the resources' names.
const RESOURCE: &str = "hugepages-";
/// Medium of volumes whose pages have the one size that the pod asks for.
const MEDIUM: &str = "HugePages";

/// Limits of a pod's group.
pub fn of_pod(spec: &PodSpec, sizes: &[u64]) -> Vec<HugepageLimit> {
    limits(sizes, |resource| requested(spec, resource))
}

/// Limits of a container: its own, or those of the pod as a whole where it has none.
pub fn of_container(spec: &PodSpec, container: &Container, sizes: &[u64]) -> Vec<HugepageLimit> {
    let limit = |resources: Option<&ResourceRequirements>, resource: &str| Quantity::parse(&resources?.limits.as_ref()?.get(resource)?.0);
    let of = |resource: &str| limit(container.resources.as_ref(), resource).or_else(|| limit(spec.resources.as_ref(), resource));
    limits(sizes, |resource| of(resource).map_or(0, Quantity::value))
}

fn limits(sizes: &[u64], of: impl Fn(&str) -> i64) -> Vec<HugepageLimit> {
    let limit =
        |size: &u64| HugepageLimit { page_size: huge_page_unit(*size), limit: u64::try_from(of(&huge_page_resource(*size))).unwrap_or(0) };
    sizes.iter().map(limit).collect()
}

/// The resources that a pod or its containers request, each once.
pub fn resources(spec: &PodSpec) -> BTreeSet<String> {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let all = spec.resources.iter().chain(containers.filter_map(|container| container.resources.as_ref()));
    let names = all.flat_map(|resources| resources.requests.iter().flatten()).map(|(name, _)| name);
    names.filter(|name| name.starts_with(RESOURCE)).cloned().collect()
}

/// Sizes of pages that a pod requests, in bytes.
fn asked(spec: &PodSpec) -> BTreeSet<i64> {
    resources(spec).iter().filter_map(|name| Some(Quantity::parse(name.strip_prefix(RESOURCE)?)?.value())).collect()
}

/// Whether a pod asks for any. The groups of containers of one that does not need no limits below the pod's.
pub fn wanted(spec: &PodSpec) -> bool {
    !asked(spec).is_empty()
}

/// Whether a volume's medium is huge pages.
pub fn is_medium(medium: &str) -> bool {
    medium == MEDIUM || medium.starts_with("HugePages-")
}

/// Bytes of a page of a volume of this medium.
///
/// # Errors
/// The pod asks for no such pages, or for several sizes where the medium names none.
pub fn page_size(spec: &PodSpec, medium: &str) -> Result<i64, String> {
    let mut sizes = asked(spec);
    if let Some(size) = medium.strip_prefix("HugePages-") {
        let wanted = Quantity::parse(size).map(Quantity::value);
        let wanted = wanted.ok_or_else(|| format!("medium: {medium} has no size of pages"))?;
        sizes.retain(|size| *size == wanted);
    }
    let first = sizes.pop_first();
    let first =
        first.ok_or_else(|| format!("medium {medium}: hugePages storage requested, but there is no resource request for huge pages"))?;
    if sizes.is_empty() { Ok(first) } else { Err(format!("medium: {medium} can't be used if container requests multiple huge page sizes")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(containers: &[Value], own: Value) -> PodSpec {
        let container = |list: &Value| json!({"name": "c", "resources": {"requests": list, "limits": list}});
        let containers: Vec<Value> = containers.iter().map(container).collect();
        serde_json::from_value(json!({"containers": containers, "resources": {"requests": own, "limits": own}})).unwrap()
    }

    #[test]
    fn every_size_is_limited() {
        let shown = |limits: Vec<HugepageLimit>| limits.into_iter().map(|limit| (limit.page_size, limit.limit >> 20)).collect::<Vec<_>>();
        let check = |spec: &PodSpec, pod: [u64; 2], container: [u64; 2]| {
            let sizes = [2 << 20, 1 << 30];
            let named = |amounts: [u64; 2]| Vec::from([("2MB".to_owned(), amounts[0]), ("1GB".to_owned(), amounts[1])]);
            assert_eq!(shown(of_pod(spec, &sizes)), named(pod));
            assert_eq!(shown(of_container(spec, &spec.containers[0], &sizes)), named(container));
        };
        check(&spec(&[json!({"cpu": "1"})], json!({})), [0, 0], [0, 0]);
        check(&spec(&[json!({"hugepages-2Mi": "4Mi"}), json!({"hugepages-2Mi": "2Mi"})], json!({})), [6, 0], [4, 0]);
        check(&spec(&[json!({"hugepages-2Mi": "4Mi"})], json!({"hugepages-2Mi": "8Mi", "hugepages-1Gi": "1Gi"})), [8, 1024], [4, 1024]);
        assert!(!wanted(&spec(&[json!({"cpu": "1"})], json!({}))) && wanted(&spec(&[json!({})], json!({"hugepages-2Mi": "8Mi"}))));
    }

    #[test]
    fn volumes_have_pages_of_a_size_that_is_asked_for() {
        let (small, large) = (json!({"hugepages-2Mi": "4Mi"}), json!({"hugepages-1Gi": "1Gi"}));
        let none = "medium HugePages-2Mi: hugePages storage requested, but there is no resource request for huge pages";
        let many = "medium: HugePages can't be used if container requests multiple huge page sizes";
        let cases: [(&[Value], &str, Result<i64, &str>); 6] = [
            (&[small.clone()], "HugePages", Ok(2 << 20)),
            (&[small.clone(), small.clone()], "HugePages", Ok(2 << 20)),
            (&[small.clone(), large.clone()], "HugePages", Err(many)),
            (&[small.clone(), large.clone()], "HugePages-1Gi", Ok(1 << 30)),
            (&[large], "HugePages-2Mi", Err(none)),
            (&[small], "HugePages-x", Err("medium: HugePages-x has no size of pages")),
        ];
        for (containers, medium, wanted) in cases {
            assert!(is_medium(medium));
            assert_eq!(page_size(&spec(containers, json!({})), medium), wanted.map_err(str::to_owned));
        }
        assert!(!is_medium("Memory") && !is_medium("HugePagesOf2Mi"));
    }
}
