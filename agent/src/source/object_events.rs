//! Events on objects, by server-side apply.
//!
//! An Event on a cluster-wide object is in the namespace `default`, as those of Nodes are.
//!
//! The name of an Event follows from the object, its kind and the reason, so that the same finding of many nodes
//! is one Event. Its time is the full minute: nodes that write within a minute write the same.
//! A finding whose object does not exist any more is dropped. Writing an Event is tried once; it is tried again
//! when the finding is sent again.

use std::time::{Duration, SystemTime};

use hyper::header::CONTENT_TYPE;
use jiff::Timestamp;
use serde_json::{Value, json};
use sluice_bpf::error_chain;
use sluice_core::model::Kind;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::client::Connection;
use super::convert;
use crate::findings::{self, Finding, NotWritten};
use crate::watches::Watches;

/// Deadline of both requests.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Field manager, and component of the Events.
const MANAGER: &str = "sluice";
/// Longest name of an object in the API.
const NAME_MAX: usize = 253;

/// An Event could not be written.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    /// A request failed.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// The request is not valid.
    #[error(transparent)]
    Request(#[from] hyper::http::Error),
    /// The API server does not respond.
    #[error("no response within {} s", TIMEOUT.as_secs())]
    Timeout,
}

/// Logs findings and, if `enabled`, writes their Events.
pub fn spawn(
    connection: &Connection,
    enabled: bool,
    findings: mpsc::Receiver<Finding>,
) -> JoinHandle<()> {
    // Not one of the watches that the status shows.
    let state = Watches::default().add("Event");
    let client = connection.client(state);
    let write = move |finding: Finding| {
        let client = enabled.then(|| client.clone());
        async move {
            let Some(client) = client else { return Ok(()) };
            let failed = |error: WriteError| {
                let Finding { object, reason, .. } = &finding;
                let error = error_chain(&error);
                tracing::warn!(%object, %reason, error, "could not write the Event");
                NotWritten
            };
            write(&client, &finding).await.map_err(failed)
        }
    };
    let mut findings = findings;
    tokio::spawn(async move { findings::report(&mut findings, write).await })
}

/// Writes the Event of a finding.
///
/// # Errors
/// The API server refuses it or does not respond.
async fn write(client: &kube::Client, finding: &Finding) -> Result<(), WriteError> {
    timeout(TIMEOUT, try_write(client, finding)).await.map_err(|_elapsed| WriteError::Timeout)?
}

async fn try_write(client: &kube::Client, finding: &Finding) -> Result<(), WriteError> {
    let Some(api_version) = convert::api_version(finding.kind) else { return Ok(()) };
    let root = if api_version.contains('/') { "apis" } else { "api" };
    let name = &finding.object.name;
    let scope = match &*finding.object.namespace {
        "" => String::new(),
        namespace => format!("namespaces/{namespace}/"),
    };
    // `kubectl describe` finds Events by UID. The permission to list is there already.
    let uri = format!(
        "/{root}/{api_version}/{scope}{}?fieldSelector=metadata.name%3D{name}&limit=1",
        resource(finding.kind)
    );
    let list: Value = client.request(hyper::Request::get(uri).body(Vec::new())?).await?;
    let Some(uid) = list.pointer("/items/0/metadata/uid").and_then(Value::as_str) else {
        return Ok(());
    };
    let event = event(finding, api_version, uid, SystemTime::now());
    let (namespace, name) = (event_namespace(finding), event_name(finding));
    let uri =
        format!("/api/v1/namespaces/{namespace}/events/{name}?fieldManager={MANAGER}&force=true");
    let request = hyper::Request::patch(uri)
        .header(CONTENT_TYPE, "application/apply-patch+yaml")
        .body(event.to_string().into_bytes())?;
    client.request::<Value>(request).await?;
    Ok(())
}

/// Plural of a kind in paths.
fn resource(kind: Kind) -> String {
    let kind = convert::kind_name(kind).to_lowercase();
    match kind.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None => format!("{kind}s"),
    }
}

/// The namespace of the Event of an object.
fn event_namespace(finding: &Finding) -> &str {
    let namespace = &*finding.object.namespace;
    if namespace.is_empty() { "default" } else { namespace }
}

/// The name of the Event of an object and a reason. Objects of several kinds can have one name, and Events on
/// cluster-wide objects are in a namespace.
fn event_name(finding: &Finding) -> String {
    let kind = convert::kind_name(finding.kind);
    let suffix = format!(".sluice-{kind}-{}", finding.reason).to_lowercase();
    // Names of objects are ASCII.
    let name: String = finding.object.name.chars().take(NAME_MAX - suffix.len()).collect();
    name + &suffix
}

fn event(finding: &Finding, api_version: &str, uid: &str, now: SystemTime) -> Value {
    let mut object = json!({
        "apiVersion": api_version,
        "kind": convert::kind_name(finding.kind),
        "name": &*finding.object.name,
        "uid": uid,
    });
    if !finding.object.namespace.is_empty() {
        object["namespace"] = (*finding.object.namespace).into();
    }
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let minute = i64::try_from(seconds - seconds % 60).unwrap_or_default();
    let time = Timestamp::from_second(minute).unwrap_or_default().to_string();
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": { "namespace": event_namespace(finding), "name": event_name(finding) },
        "involvedObject": object,
        "type": "Warning",
        "reason": finding.reason.to_string(),
        "message": finding.message,
        "source": { "component": MANAGER },
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    })
}

#[cfg(test)]
mod tests {
    use api_server::ApiServer;
    use sluice_core::ObjectName;
    use sluice_core::policy::FindingReason;

    use super::super::restored::SILENT_AFTER;
    use super::super::retry::Retries;
    use super::*;
    use crate::config::ApiAccess;
    use crate::findings::Reason;

    /// A server with a Service, a ClusterNetworkPolicy and a Node, and how a node reaches it.
    fn cluster() -> (ApiServer, ApiAccess, tempfile::TempDir) {
        let server = ApiServer::start();
        let metadata = json!({"namespace": "shop", "name": "web", "uid": "u1"});
        server.apply(json!({"kind": "Service", "apiVersion": "v1", "metadata": metadata}));
        let metadata = json!({"name": "no-metadata", "uid": "u2"});
        server.apply(json!({"kind": "ClusterNetworkPolicy", "metadata": metadata}));
        server.apply(json!({"kind": "Node", "metadata": {"name": "n1", "uid": "u3"}}));
        let dir = tempfile::tempdir().unwrap();
        let kubeconfig = dir.path().join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": server.url()}}],
            "users": [{"name": "u", "user": {}}],
        });
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        let access = ApiAccess {
            kubeconfig: Some(kubeconfig),
            kubelet_conf: "/does/not/exist".into(),
            server: None,
        };
        (server, access, dir)
    }

    /// Reports findings as a node does.
    async fn report(access: &ApiAccess, enabled: bool, sent: Vec<Finding>) {
        let connection =
            Connection::open(access.clone(), Retries::new(|| 0.5), SILENT_AFTER).await.unwrap();
        let (findings, found) = findings::queue();
        findings.send(sent);
        drop(findings);
        spawn(&connection, enabled, found).await.unwrap();
    }

    /// Fifty nodes write one Event; the one of an object that does not exist is not written.
    #[tokio::test]
    async fn findings_of_several_nodes_are_one_event_on_the_object() {
        let (server, access, _dir) = cluster();
        let finding = |name: &str| {
            let object = ObjectName::new("shop", name);
            Finding::service(&object, Reason::AddressInUse, "is in use".to_owned())
        };
        for enabled in [true, true, false] {
            report(&access, enabled, vec![finding("removed"), finding("web")]).await;
        }
        let writes: Vec<_> =
            server.requests().into_iter().filter(|r| r.path.contains("/events/")).collect();
        assert_eq!(writes.len(), 2, "{writes:?}");
        let path = "/api/v1/namespaces/shop/events/web.sluice-service-addressinuse";
        assert!(writes.iter().all(|write| write.path == path), "{writes:?}");
        let event = server.get("Event", "shop", "web.sluice-service-addressinuse").unwrap();
        assert_eq!(event["involvedObject"]["uid"], "u1");
        assert_eq!(event["involvedObject"]["namespace"], "shop");
        assert_eq!((&event["type"], &event["message"]), (&json!("Warning"), &json!("is in use")));
    }

    #[tokio::test]
    async fn event_on_a_cluster_wide_object_is_in_the_default_namespace() {
        let (server, access, _dir) = cluster();
        let finding = |kind, name, reason| {
            Finding::without_uid(kind, ObjectName::cluster(name), reason, "egress[0]".to_owned())
        };
        let invalid = Reason::Policy(FindingReason::InvalidPart);
        let findings = vec![
            finding(Kind::ClusterNetworkPolicy, "no-metadata", invalid),
            finding(Kind::Node, "n1", Reason::NoSnatPort),
        ];
        report(&access, true, findings).await;
        for (event, api_version, kind, name, uid) in [
            (
                "no-metadata.sluice-clusternetworkpolicy-invalidpart",
                "policy.networking.k8s.io/v1alpha2",
                "ClusterNetworkPolicy",
                "no-metadata",
                "u2",
            ),
            ("n1.sluice-node-nosnatport", "v1", "Node", "n1", "u3"),
        ] {
            let event = server.get("Event", "default", event).unwrap();
            let expected =
                json!({"apiVersion": api_version, "kind": kind, "name": name, "uid": uid});
            assert_eq!(event["involvedObject"], expected);
        }
    }

    #[test]
    fn name_of_an_event_follows_from_object_kind_and_reason() {
        let name = |kind, object: &str, reason| {
            let object = ObjectName::new("shop", object);
            event_name(&Finding::without_uid(kind, object, reason, String::new()))
        };
        let capacity = Reason::Policy(FindingReason::Capacity);
        let service = |object: &str, reason| name(Kind::Service, object, reason);
        assert_eq!(service("web", Reason::AddressInUse), "web.sluice-service-addressinuse");
        assert_ne!(service("web", Reason::NotEnoughCapacity), service("web", Reason::AddressInUse));
        assert_eq!(name(Kind::Pod, "db", capacity), "db.sluice-pod-policycapacity");
        assert_eq!(
            name(Kind::NetworkPolicy, "db", capacity),
            "db.sluice-networkpolicy-policycapacity"
        );
        assert_eq!(service(&"a".repeat(253), Reason::AddressInUse).len(), 253);
    }

    #[test]
    fn events_of_one_minute_are_equal() {
        let object = ObjectName::new("shop", "web");
        let finding = Finding::service(&object, Reason::AddressInUse, "is in use".to_owned());
        let at = |seconds| {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            event(&finding, "v1", "u", now)
        };
        assert_eq!(at(120), at(179));
        assert_ne!(at(120), at(180));
        assert_eq!(at(61)["lastTimestamp"], "1970-01-01T00:01:00Z");
    }
}
