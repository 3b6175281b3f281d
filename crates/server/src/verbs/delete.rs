//! Removes an object: at once, after its grace period, or when its finalizers are gone.

use std::sync::Arc;

use api::check::Check;
use api::{Causes, Object, Status};
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};
use store::Entry;

use crate::admission::{Admission, Operation};
use crate::definitions;
use crate::request::{Reply, Request};
use crate::server::Server;
use crate::steps::commit::{self, Written};
use crate::steps::decode::{self, Encoding, Expected};
use crate::steps::options::{dry_run, now, timestamp};
use crate::steps::update::has_namespace_finalizers;
use crate::steps::{convert, encode, validate};
use crate::write::Write;

/// `DeleteOptions`, from the body or the query.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Seconds to stop.
    pub grace: Option<i64>,
    /// Only this object.
    pub uid: Option<String>,
    /// Only this version.
    pub resource_version: Option<String>,
    /// What becomes of dependents.
    pub propagation: Option<Propagation>,
    /// Everything but the deletion.
    pub dry_run: bool,
    /// Asked with `orphanDependents: false`, whose answer tells whether the deletion is over.
    pub waits: bool,
}

/// What becomes of dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// They stay.
    Orphan,
    /// They go afterwards.
    Background,
    /// They go first.
    Foreground,
}

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

impl DeleteOptions {
    /// Reads the body, or the query where there is none.
    ///
    /// # Errors
    /// 400 and 422.
    pub fn read(request: &Request, body: &Bytes) -> Result<DeleteOptions, Status> {
        let query = &request.query;
        let object = if body.is_empty() { Object::default() } else { decode_options(request, body)? };
        let mut causes = Causes::default();
        let mut options = DeleteOptions { grace: object.get("gracePeriodSeconds").and_then(Value::as_i64), ..DeleteOptions::default() };
        if options.grace.is_none() {
            options.grace = query.number("gracePeriodSeconds")?;
        }
        let precondition = |field: &str| object.at(&["preconditions", field]).and_then(Value::as_str).map(str::to_owned);
        options.uid = precondition("uid");
        options.resource_version = precondition("resourceVersion");
        let policy = match object.text_at(&["propagationPolicy"]) {
            "" => query.text("propagationPolicy"),
            policy => policy,
        };
        let orphan = object.get("orphanDependents").and_then(Value::as_bool).or_else(|| query.tristate("orphanDependents"));
        options.waits = orphan == Some(false);
        options.propagation = match policy {
            "" => orphan.map(|orphan| if orphan { Propagation::Orphan } else { Propagation::Background }),
            "Orphan" => Some(Propagation::Orphan),
            "Background" => Some(Propagation::Background),
            "Foreground" => Some(Propagation::Foreground),
            other => {
                let supported = ["Foreground", "Background", "Orphan", "nil"];
                causes.unsupported(&api::Path::root("propagationPolicy"), other, &supported);
                None
            }
        };
        if !policy.is_empty() && orphan.is_some() {
            causes.invalid("propagationPolicy", &Value::from(policy), "orphanDependents and deletionPropagation cannot be both set");
        }
        let listed = object.get("dryRun").and_then(Value::as_array);
        let listed = listed.into_iter().flatten().filter_map(Value::as_str);
        options.dry_run = dry_run(listed.chain(query.all("dryRun")), &mut causes);
        if causes.is_empty() { Ok(options) } else { Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &causes)) }
    }
}

fn decode_options(request: &Request, body: &Bytes) -> Result<Object, Status> {
    let schema = api::schema::builtin("apis.meta.v1.DeleteOptions").ok_or_else(|| Status::internal("DeleteOptions has no type"))?;
    let encoding = Encoding::of(request.header("content-type"))?;
    let mut expected = Expected { schema: &schema, api_version: "v1", kind: "DeleteOptions" };
    // Clients send the options in the version of the resource or in that of meta.
    let api_version = match encoding {
        Encoding::Json => codec::json::parse(body).ok().and_then(|value| value["apiVersion"].as_str().map(str::to_owned)),
        Encoding::Yaml => codec::yaml::parse(body).ok().and_then(|value| value["apiVersion"].as_str().map(str::to_owned)),
        Encoding::Protobuf => codec::protobuf::open(body).ok().map(|envelope| envelope.api_version.to_owned()),
    };
    let api_version = api_version.filter(|text| !text.is_empty()).unwrap_or_else(|| "v1".to_owned());
    expected.api_version = &api_version;
    if encoding == Encoding::Json {
        let value = codec::json::parse(body)
            .map_err(|error| Status::bad_request(format!("couldn't get version/kind; json parse error: {error}")))?;
        let kind = value["kind"].as_str().unwrap_or("");
        if !matches!(kind, "" | "DeleteOptions") {
            return Err(Status::bad_request(decode::no_such_kind("meta.k8s.io/v1", kind)));
        }
    }
    Ok(decode::object(body, encoding, expected, codec::Strictness::Ignore)?.0)
}

/// Answers with a Status, or with the object while it still lives.
///
/// # Errors
/// 404, 409 for preconditions, and what admission refuses with.
pub async fn delete(server: &Arc<Server>, mut request: Request) -> Result<Reply, Status> {
    let body = request.take_body().collect().await?;
    let options = DeleteOptions::read(&request, &body)?;
    let mut write = Write::new(server, &request, "DeleteOptions")?;
    write.options.dry_run |= options.dry_run;
    let name = &request.allowed.attributes().name;
    warn_of_orphans(&write, &options);
    let deleted = write.told(run(&write, name, &options).await)?;
    let mut reply = match &deleted {
        Deleted::Gone(written) if returns_object(&request) => encode::written(&request, StatusCode::OK, written, Vec::new())?,
        Deleted::Gone(written) => {
            let uid = match written {
                Written::Stored(entry) => entry.header.uid.to_string(),
                Written::DryRun(object) => object.uid().to_owned(),
            };
            encode::value_reply(&request.negotiated, StatusCode::OK, &success(&request, name, &uid))?
        }
        Deleted::Pending(written) => {
            let code = if options.waits { StatusCode::ACCEPTED } else { StatusCode::OK };
            encode::written(&request, code, written, Vec::new())?
        }
    };
    encode::finish(&request, &mut reply, write.take_warnings());
    Ok(reply)
}

/// Kinds whose deletion answers with the object.
fn returns_object(request: &Request) -> bool {
    let def = &request.served.def;
    match &*def.group {
        "" => matches!(
            &*def.plural,
            "pods" | "services" | "serviceaccounts" | "persistentvolumes" | "persistentvolumeclaims" | "podtemplates" | "resourcequotas"
        ),
        "storage.k8s.io" => {
            matches!(&*def.plural, "csidrivers" | "csinodes" | "storageclasses" | "volumeattachments" | "volumeattributesclasses")
        }
        "resource.k8s.io" => matches!(&*def.plural, "deviceclasses" | "resourceclaims" | "resourceclaimtemplates" | "resourceslices"),
        _ => false,
    }
}

fn success(request: &Request, name: &str, uid: &str) -> Value {
    let def = &request.served.def;
    let mut details = json!({"name": name, "kind": &*def.plural, "uid": uid});
    if !def.group.is_empty() {
        details["group"] = (*def.group).into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// How a deletion ended.
pub enum Deleted {
    /// The object is gone; its last version.
    Gone(Written),
    /// It waits for its grace period or its finalizers.
    Pending(Written),
}

/// Deletes the object of a name, with another try after every lost race.
///
/// # Errors
/// As `delete`.
pub async fn run(write: &Write<'_>, name: &str, options: &DeleteOptions) -> Result<Deleted, Status> {
    let key = commit::key(write.served, write.namespace(), name);
    let mut admitted = false;
    loop {
        let Some(entry) = write.server.store.mvcc().get(&key).value else {
            return Err(write.served.not_found(name));
        };
        preconditions(write, &entry, options)?;
        let old = convert::read(write.served, &entry)?;
        if !std::mem::replace(&mut admitted, true) {
            admit(write, &old).await?;
        }
        if let Some(deleted) = attempt(write, &entry, old, options).await? {
            return Ok(deleted);
        }
    }
}

fn preconditions(write: &Write<'_>, entry: &Entry, options: &DeleteOptions) -> Result<(), Status> {
    let def = &write.served.def;
    let refuse = |what: &str, given: &str, found: &str, meaning: &str| {
        if is_definition(write) {
            let field = if what == "UID" { "UID" } else { "ResourceVersion" };
            let why = format!("Precondition failed: {field} in precondition: {given}, {field} in object meta: {found}");
            return Err(Status::conflict(&def.group, &def.plural, &entry.header.name, &why));
        }
        let why = format!(
            "the {what} in the precondition ({given}) does not match the {what} in record ({found}). The object might have been {meaning}"
        );
        // Events of either group are stored as those of the core.
        let group = if &*def.plural == "events" { "" } else { &*def.group };
        Err(Status::conflict(group, &def.kind, &entry.header.name, &why))
    };
    match (&options.uid, &options.resource_version) {
        (Some(uid), _) if **uid != *entry.header.uid => refuse("UID", uid, &entry.header.uid, "deleted and then recreated"),
        (_, Some(version)) if *version != entry.revision.to_string() => {
            refuse("ResourceVersion", version, &entry.revision.to_string(), "modified")
        }
        _ => Ok(()),
    }
}

async fn admit(write: &Write<'_>, old: &Object) -> Result<(), Status> {
    let mut admission = Admission::of_write(write, Operation::Delete, None, Some(Arc::new(old.clone())));
    write.server.admission.mutate(write.server, &mut admission).await?;
    write.server.admission.validate(write.server, &mut admission).await?;
    write.warn_all(admission.warnings);
    Ok(())
}

async fn attempt(write: &Write<'_>, entry: &Arc<Entry>, old: Object, options: &DeleteOptions) -> Result<Option<Deleted>, Status> {
    let mut object = old.clone();
    let grace = grace(write, &old, options)?;
    if write.served.custom.is_none() && is_kind(&old, "v1", "Namespace") {
        return delete_namespace(write, entry, object, options).await;
    }
    if is_definition(write) && old.deletion_timestamp().is_none() {
        // They have a way of their own: neither a grace period nor a new generation, and dependents do not matter.
        let mut finalizers: Vec<String> = old.finalizers().map(str::to_owned).collect();
        if !finalizers.iter().any(|one| one == definitions::CLEANUP) {
            finalizers.push(definitions::CLEANUP.to_owned());
        }
        definitions::mark_terminating(&mut object);
        object.set_meta("deletionTimestamp", now());
        set_finalizers(&mut object, &finalizers);
        return Ok(commit::replace(write, validate::Valid(object), entry).await?.map(Deleted::Pending));
    }
    let finalizers = finalizers(write, &old, options);
    let had: Vec<&str> = old.finalizers().collect();
    let finalizers_changed = had != finalizers;
    if finalizers_changed {
        set_finalizers(&mut object, &finalizers);
    }
    match grace {
        Grace::Now if finalizers.is_empty() => return remove(write, entry, object).await,
        Grace::Now => mark(&mut object, 0, write),
        Grace::Wait(seconds) => mark(&mut object, seconds, write),
        Grace::Shorten(seconds) => shorten(&mut object, seconds),
        Grace::Pending if !finalizers_changed => {
            let pending = if write.options.dry_run { Written::DryRun(old) } else { Written::Stored(entry.clone()) };
            return Ok(Some(Deleted::Pending(pending)));
        }
        Grace::Pending => {}
    }
    if object == old {
        let pending = if write.options.dry_run { Written::DryRun(old) } else { Written::Stored(entry.clone()) };
        return Ok(Some(Deleted::Pending(pending)));
    }
    Ok(commit::replace(write, validate::Valid(object), entry).await?.map(Deleted::Pending))
}

fn is_definition(write: &Write<'_>) -> bool {
    &*write.served.def.group == "apiextensions.k8s.io" && &*write.served.def.plural == definitions::PLURAL
}

async fn remove(write: &Write<'_>, entry: &Arc<Entry>, object: Object) -> Result<Option<Deleted>, Status> {
    if write.options.dry_run {
        let mut object = object;
        // Kinds that stop gracefully are marked before they go.
        if write.served.custom.is_none() && is_kind(&object, "v1", "Pod") {
            mark(&mut object, 0, write);
        }
        return Ok(Some(Deleted::Gone(Written::DryRun(object))));
    }
    let Some(removed) = commit::remove(write, &entry.key, entry.revision).await? else { return Ok(None) };
    crate::allocate::after_delete(write.server, write.served, &object).await;
    if write.served.custom.is_none() && is_kind(&object, "v1", "Pod") {
        let mut last = convert::read(write.served, &removed)?;
        mark(&mut last, 0, write);
        return Ok(Some(Deleted::Gone(Written::DryRun(last))));
    }
    Ok(Some(Deleted::Gone(Written::Stored(removed))))
}

/// How long the object may still live.
#[derive(Debug, PartialEq, Eq)]
enum Grace {
    /// Not at all.
    Now,
    /// This many seconds from now.
    Wait(i64),
    /// Less than it was given before.
    Shorten(i64),
    /// It is being deleted already.
    Pending,
}

fn grace(write: &Write<'_>, old: &Object, options: &DeleteOptions) -> Result<Grace, Status> {
    let given = match options.grace {
        Some(seconds) if seconds < 0 => Some(1),
        other => other,
    };
    let meta_grace = old.metadata().and_then(|meta| meta.get("deletionGracePeriodSeconds")).and_then(Value::as_i64);
    let graceful = write.served.custom.is_none() && is_kind(old, "v1", "Pod");
    if old.deletion_timestamp().is_some() {
        return Ok(match (meta_grace, graceful) {
            (None | Some(0), _) | (_, false) => Grace::Now,
            (Some(before), true) => match given {
                Some(seconds) if seconds < before => {
                    if seconds == 0 {
                        Grace::Now
                    } else {
                        Grace::Shorten(seconds)
                    }
                }
                _ => Grace::Pending,
            },
        });
    }
    if !graceful {
        return Ok(Grace::Now);
    }
    let default = old.at(&["spec", "terminationGracePeriodSeconds"]).and_then(Value::as_i64).unwrap_or(30);
    let unscheduled = old.text_at(&["spec", "nodeName"]).is_empty();
    let finished = matches!(old.text_at(&["status", "phase"]), "Succeeded" | "Failed");
    let seconds = if unscheduled || finished { 0 } else { given.unwrap_or(default.max(if default < 0 { 1 } else { default })) };
    Ok(if seconds == 0 { Grace::Now } else { Grace::Wait(seconds) })
}

fn is_kind(object: &Object, api_version: &str, kind: &str) -> bool {
    object.api_version() == api_version && object.kind() == kind
}

/// The finalizers that a deletion leaves, by its propagation policy.
fn finalizers(write: &Write<'_>, old: &Object, options: &DeleteOptions) -> Vec<String> {
    let mut wanted: Vec<String> = old.finalizers().map(str::to_owned).collect();
    let policy = options.propagation.or_else(|| {
        let decided = wanted.iter().any(|one| one == ORPHAN || one == FOREGROUND);
        (!decided && orphans_by_default(write)).then_some(Propagation::Orphan)
    });
    let Some(policy) = policy else { return wanted };
    // Nothing ever depends on an event.
    if write.served.custom.is_none() && &*write.served.def.plural == "events" {
        return wanted;
    }
    if old.deletion_timestamp().is_some() && policy == Propagation::Background && options.propagation.is_none() {
        return wanted;
    }
    wanted.retain(|one| one != ORPHAN && one != FOREGROUND);
    match policy {
        Propagation::Orphan => wanted.push(ORPHAN.into()),
        Propagation::Foreground => wanted.push(FOREGROUND.into()),
        Propagation::Background => {}
    }
    wanted
}

/// Who deletes jobs and says nothing about their pods is told that they stay.
pub fn warn_of_orphans(write: &Write<'_>, options: &DeleteOptions) {
    if is_job(write) && options.propagation.is_none() {
        write.warn(
            "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning",
        );
    }
}

fn is_job(write: &Write<'_>) -> bool {
    &*write.served.def.group == "batch" && &*write.served.def.plural == "jobs"
}

/// Kinds of old versions that keep their dependents unless told otherwise.
fn orphans_by_default(write: &Write<'_>) -> bool {
    let def = &write.served.def;
    is_job(write) || (def.group.is_empty() && &*def.plural == "replicationcontrollers")
}

fn set_finalizers(object: &mut Object, finalizers: &[String]) {
    if finalizers.is_empty() {
        object.metadata_mut().remove("finalizers");
    } else {
        object.set_meta("finalizers", finalizers.to_vec());
    }
}

/// Marks an object as being deleted.
fn mark(object: &mut Object, seconds: i64, write: &Write<'_>) {
    if object.deletion_timestamp().is_some() {
        if seconds == 0 {
            object.set_meta("deletionGracePeriodSeconds", 0);
        }
        return;
    }
    let at = if seconds == 0 { now() } else { timestamp(jiff::Timestamp::now().as_second() + seconds) };
    object.set_meta("deletionTimestamp", at);
    object.set_meta("deletionGracePeriodSeconds", seconds);
    let generation = object.generation();
    if generation > 0 || crate::steps::prepare::has_generation(write.served) {
        object.set_meta("generation", generation + 1);
    }
}

/// Moves the deletion forward, by the difference of the grace periods.
fn shorten(object: &mut Object, seconds: i64) {
    let before = object.metadata().and_then(|meta| meta.get("deletionGracePeriodSeconds")).and_then(Value::as_i64).unwrap_or(0);
    let at = object.deletion_timestamp().and_then(|text| text.parse::<jiff::Timestamp>().ok()).map_or(0, jiff::Timestamp::as_second);
    object.set_meta("deletionTimestamp", timestamp(at - before + seconds));
    object.set_meta("deletionGracePeriodSeconds", seconds);
}

/// A namespace first turns `Terminating`; it goes when its content is gone.
async fn delete_namespace(
    write: &Write<'_>,
    entry: &Arc<Entry>,
    mut object: Object,
    options: &DeleteOptions,
) -> Result<Option<Deleted>, Status> {
    let old = object.clone();
    if has_namespace_finalizers(&object) || object.finalizers().next().is_some() {
        if object.deletion_timestamp().is_none() {
            object.set_meta("deletionTimestamp", now());
            let generation = object.generation();
            if generation > 0 {
                object.set_meta("generation", generation + 1);
            }
        }
        object.map_at_mut(&["status"]).insert("phase".into(), "Terminating".into());
        let finalizers = finalizers(
            write,
            &old,
            &DeleteOptions { propagation: options.propagation.filter(|one| *one == Propagation::Orphan), ..DeleteOptions::default() },
        );
        if finalizers.iter().any(|one| one == ORPHAN) {
            set_finalizers(&mut object, &finalizers);
        }
        if object == old {
            return Ok(Some(Deleted::Pending(Written::Stored(entry.clone()))));
        }
        return Ok(commit::replace(write, validate::Valid(object), entry).await?.map(Deleted::Pending));
    }
    remove(write, entry, object).await
}
