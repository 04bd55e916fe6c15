//! DEL: twice, of nothing, without namespace, state, maps.

use std::fs;

use netns_tests::{Call, dataplane, ip};

use crate::{node, nothing_is_left};

#[test]
fn del_works_whatever_is_gone() {
    type Loss = (&'static str, fn(&netns_tests::Node, &netns_tests::Pod));
    let losses: [Loss; 6] = [
        ("nothing", |_, _| ()),
        ("the namespace", |node, pod| node.drop_sandbox(&pod.sandbox.path)),
        ("the pod's interface", |_, pod| {
            ip(&pod.sandbox.spaces, "link del eth0");
        }),
        ("the row", |node, pod| dataplane::forget_endpoint(node, pod.address)),
        ("the state", |node, _| node.spaces.run(|| fs::remove_dir_all("/var/lib/sluice").unwrap())),
        ("the pins", |node, _| dataplane::unload(node)),
    ];
    for (loss, lose) in losses {
        let (_world, node) = node();
        let pod = node.pod("default/web");
        lose(&node, &pod);
        for time in ["first", "second"] {
            let outcome = node.cni("DEL", &pod.sandbox);
            assert_eq!(outcome.code, Some(0), "{loss}, {time}: {}", outcome.stdout);
            assert_eq!(outcome.stdout.trim(), "", "{loss}: DEL has no result");
        }
        if loss == "the pins" {
            assert_eq!(crate::traces(&node), (vec![], 0), "{loss}");
            assert_eq!(crate::leases(&node), [], "{loss}");
        } else {
            nothing_is_left(&node);
        }
    }
}

#[test]
fn del_of_what_never_was() {
    let (_world, node) = node();
    let kept = node.pod("default/kept");
    let never = node.sandbox("default/never");
    node.cni("DEL", &never).ok();
    let call = Call::for_sandbox("DEL", &node.config(), &never);
    call.clone().set("CNI_NETNS", "").run(&node.spaces).ok();
    call.set("CNI_NETNS", "/run/netns/never").run(&node.spaces).ok();
    assert!(dataplane::endpoint(&node, kept.address).is_some());
    assert_eq!(crate::leases(&node).len(), 1);
}
