//! DEL: repeated, of an attachment that does not exist, without namespace, state or maps.

use std::fs;

use netns_tests::{CniCall, Node, Pod, dataplane, ip};
use sluice_abi::{PodNetns, map};

use crate::{assert_no_pod, leases, node, pod_devices_and_routes};

#[test]
fn del_succeeds_whatever_is_missing() {
    type Loss = (&'static str, fn(&Node, &Pod));
    let losses: [Loss; 7] = [
        ("nothing", |_, _| ()),
        ("the namespace", |node, pod| node.drop_sandbox(&pod.sandbox.path)),
        ("the pod's interface", |_, pod| {
            ip(&pod.sandbox.namespaces, "link del eth0");
        }),
        ("the map entry", |node, pod| dataplane::delete_local_pod(node, pod.address)),
        ("the state", |node, _| {
            node.namespaces.run(|| fs::remove_dir_all("/run/sluice/cni").unwrap());
        }),
        ("the lease's content", |node, _| crate::damage_leases(node, "{")),
        // The last one: no pod can be added after it.
        ("the pins", |node, _| dataplane::unload(node)),
    ];
    let (_topology, node) = node();
    for (loss, lose) in losses {
        let pod = node.pod("default/web");
        let known = dataplane::entries::<u64, PodNetns>(&node, map::POD_NETNS);
        assert_eq!(
            known.iter().map(|(_, pod)| pod.addrs[0]).collect::<Vec<_>>(),
            [pod.address.into()]
        );
        lose(&node, &pod);
        for call in ["first", "second"] {
            let output = node.cni("DEL", &pod.sandbox);
            assert_eq!(output.code, Some(0), "{loss}, {call}: {}", output.stdout);
            assert_eq!(output.stdout.trim(), "", "{loss}: DEL has no result");
        }
        if loss == "the pins" {
            assert_eq!(pod_devices_and_routes(&node), (vec![], 0), "{loss}");
            assert_eq!(leases(&node), [], "{loss}");
        } else {
            assert_no_pod(&node);
        }
    }
}

#[test]
fn del_of_an_unknown_attachment_succeeds_and_removes_nothing() {
    let (_topology, node) = node();
    let kept = node.pod("default/kept");
    let unknown = node.sandbox("default/unknown");
    node.cni("DEL", &unknown).ok();
    let call = CniCall::for_sandbox("DEL", &node.config(), &unknown);
    call.clone().set("CNI_NETNS", "").run(&node.namespaces).ok();
    call.set("CNI_NETNS", "/run/netns/unknown").run(&node.namespaces).ok();
    assert!(dataplane::local_pod(&node, kept.address).is_some());
    assert_eq!(leases(&node).len(), 1);
    assert_eq!(pod_devices_and_routes(&node), (vec![kept.host_device().to_owned()], 1));
}

/// The runtime could not correct them, and the pod would stay for ever.
#[test]
fn del_ignores_malformed_arguments() {
    let (_topology, node) = node();
    for arguments in ["K8S_POD_NAME", "a b=c d;;=", "K8S_POD_NAME=web 0"] {
        let pod = node.pod("default/web");
        let del = CniCall::for_sandbox("DEL", &node.config(), &pod.sandbox);
        del.set("CNI_ARGS", arguments).run(&node.namespaces).ok();
        assert_no_pod(&node);
    }
}
