//! ClusterNetworkPolicies, whose definition is installed and deleted while the agent runs.

use super::*;

const POLICIES: &str = "clusternetworkpolicies";

fn definition(server: &ApiServer) {
    server.apply(json!({
        "kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1",
        "metadata": {"name": "clusternetworkpolicies.policy.networking.k8s.io"},
    }));
}

fn delete_definition(server: &ApiServer) {
    let name = "clusternetworkpolicies.policy.networking.k8s.io";
    assert!(server.delete("CustomResourceDefinition", "", name));
}

fn policy(server: &ApiServer, name: &str) {
    server.apply(json!({
        "kind": "ClusterNetworkPolicy", "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "metadata": {"name": name},
        "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}},
    }));
}

/// Requests for the policies.
fn asked(server: &ApiServer) -> usize {
    server.requests().iter().filter(|request| request.path.ends_with(POLICIES)).count()
}

impl Node {
    /// Waits for the next change of a policy.
    async fn policy_change(&mut self, deadline: Instant) -> Change {
        loop {
            let change = self.next(deadline, "change of a policy").await;
            match &change {
                Change::Apply(object) if object.kind() != Kind::ClusterNetworkPolicy => {}
                Change::Delete(kind, _) | Change::Retain(kind, _) | Change::Replace(kind, _)
                    if *kind != Kind::ClusterNetworkPolicy => {}
                _ => return change,
            }
        }
    }
}

fn name(change: &Change) -> String {
    match change {
        Change::Apply(object) => format!("apply {}", object.name()),
        Change::Delete(_, name) => format!("delete {name}"),
        Change::Retain(_, names) => format!("retain {}", names.len()),
        Change::Replace(..) => "replace".to_owned(),
    }
}

#[tokio::test]
async fn policies_are_in_force_soon_after_their_definition_is_installed() {
    let server = ApiServer::start();
    server.set_served(POLICIES, false);
    let mut node = Node::watch(&server, "").await;
    node.lists(Instant::now() + DEADLINE, KINDS).await;
    eventually("the answer", || node.report("ClusterNetworkPolicy").not_served).await;
    let watch = node.report("ClusterNetworkPolicy");
    assert!(watch.synced && watch.error.is_none() && watch.failures == 0, "{watch:?}");
    let before = asked(&server);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(asked(&server) <= before + 1, "the kind is not polled");
    let before = asked(&server);
    // The definition appears before the API server has the kind.
    definition(&server);
    eventually("an attempt", || asked(&server) > before).await;
    server.set_served(POLICIES, true);
    definition(&server);
    policy(&server, "a");
    let deadline = Instant::now() + RECOVERY;
    assert_eq!(name(&node.policy_change(deadline).await), "apply a");
    assert!(!node.report("ClusterNetworkPolicy").not_served);
}

#[tokio::test]
async fn definition_is_read_without_its_content_and_alone() {
    let server = ApiServer::start();
    let _node = Node::start(&server, "").await;
    let requests = server.requests();
    let of_definition: Vec<_> =
        requests.iter().filter(|r| r.path.ends_with("/customresourcedefinitions")).collect();
    assert_eq!(of_definition.len(), 2, "{requests:?}");
    for request in of_definition {
        assert!(request.accept.contains("as=PartialObjectMetadata"), "{request:?}");
        let name = "metadata.name%3Dclusternetworkpolicies.policy.networking.k8s.io";
        assert!(request.query.contains(name), "{request:?}");
    }
}

/// As during an upgrade: one of several API servers lacks the kind.
#[tokio::test]
async fn policies_stay_without_their_api_and_end_with_their_definition() {
    let server = ApiServer::start();
    definition(&server);
    policy(&server, "a");
    let mut node = Node::start(&server, "").await;
    let end_watches = || async {
        server.set_fault(Fault::Status(503));
        eventually("the end of the watches", || server.watches() == 0).await;
        let before = asked(&server);
        server.set_fault(Fault::None);
        eventually("404", || asked(&server) > before).await;
    };
    server.set_served(POLICIES, false);
    end_watches().await;
    server.set_served(POLICIES, true);
    definition(&server);
    policy(&server, "b");
    assert_eq!(name(&node.policy_change(Instant::now() + DEADLINE).await), "apply b");

    // The events of the policies are lost.
    server.set_served(POLICIES, false);
    end_watches().await;
    delete_definition(&server);
    assert_eq!(name(&node.policy_change(Instant::now() + DEADLINE).await), "retain 0");
    let before = asked(&server);
    server.set_served(POLICIES, true);
    definition(&server);
    eventually("the watch", || server.watches() == WATCHES && asked(&server) > before).await;
}

/// What a real API server does: the policies first, then the definition, then the end of the watches.
#[tokio::test]
async fn policies_are_deleted_before_their_definition() {
    let server = ApiServer::start();
    definition(&server);
    policy(&server, "a");
    let mut node = Node::start(&server, "").await;
    server.delete("ClusterNetworkPolicy", "", "a");
    delete_definition(&server);
    assert_eq!(name(&node.policy_change(Instant::now() + RECOVERY).await), "delete a");
}

/// A later definition may not have the version that this one reads: its policies are not known.
#[tokio::test]
async fn policies_that_are_defined_and_not_served_are_not_taken_for_none() {
    let server = ApiServer::start();
    server.set_served(POLICIES, false);
    definition(&server);
    policy(&server, "a");
    let mut node = Node::watch(&server, "").await;
    node.lists(Instant::now() + DEADLINE, KINDS - 1).await;
    eventually("attempts", || asked(&server) > 3).await;
    let watch = node.report("ClusterNetworkPolicy");
    assert!(!watch.synced && !watch.not_served, "{watch:?}");
    server.set_served(POLICIES, true);
    assert_eq!(name(&node.policy_change(Instant::now() + DEADLINE).await), "apply a");
}
