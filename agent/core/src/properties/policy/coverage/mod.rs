//! The generators produce every field of NetworkPolicies and ClusterNetworkPolicies, in clusters in which the
//! field decides: a property of cases that never occur holds for wrong code.

mod features;
mod remove;

use std::collections::BTreeMap;

use self::features::{CLUSTER_NETWORK_POLICY, Feature, NETWORK_POLICY, OTHERS};
use crate::generate;
use crate::model::Object;
use crate::oracle::{Cluster, Sandbox, Side, side_allows};
use crate::properties::coverage::{SAMPLES, samples};

/// Verdicts of a side for a peer: every third probe, others for each peer.
const PROBES: usize = 3;

/// Whether flows pass: a part of the probes for each pod of the node, direction and peer.
fn verdicts<'a>(
    objects: &'a [Object],
    sandboxes: &'a [Sandbox],
) -> impl Iterator<Item = bool> + 'a {
    let cluster = Cluster { objects, sandboxes };
    let probes = generate::policy_probes();
    let peers = || generate::policy_peers().into_iter().enumerate();
    let sides = sandboxes.iter().flat_map(|pod| [(pod, Side::Egress), (pod, Side::Ingress)]);
    let ends = sides.flat_map(move |(pod, side)| peers().map(move |peer| (pod, side, peer)));
    ends.flat_map(move |(pod, side, (n, peer))| {
        let probes = probes.clone().into_iter().skip(n % PROBES).step_by(PROBES);
        probes.map(move |(protocol, port)| side_allows(cluster, pod, side, peer, protocol, port))
    })
}

/// In how many clusters a feature decides, and the verdicts there.
#[derive(Debug, Default)]
struct Found {
    clusters: usize,
    denied: usize,
    allowed: usize,
}

#[test]
fn every_field_of_policies_decides_flows_that_pass_and_that_do_not() {
    let features: Vec<(String, Feature)> = [
        ("", &NETWORK_POLICY[..]),
        ("ClusterNetworkPolicy: ", &CLUSTER_NETWORK_POLICY[..]),
        ("", &OTHERS[..]),
    ]
    .into_iter()
    .flat_map(|(kind, features)| features.iter().map(move |f| (format!("{kind}{}", f.0), *f)))
    .collect();
    let mut found: BTreeMap<&str, Found> = BTreeMap::new();
    for (objects, leases) in samples((generate::policy_objects(), generate::leases())) {
        let sandboxes: Vec<Sandbox> = leases.iter().map(generate::sandbox).collect();
        let whole: Vec<bool> = verdicts(&objects, &sandboxes).collect();
        for (name, (_, _, remove)) in &features {
            let mut rest = objects.clone();
            remove(&mut rest);
            if rest == objects || verdicts(&rest, &sandboxes).eq(whole.iter().copied()) {
                continue;
            }
            let found = found.entry(name).or_default();
            found.clusters += 1;
            found.allowed += whole.iter().filter(|allowed| **allowed).count();
            found.denied += whole.iter().filter(|allowed| !**allowed).count();
        }
    }
    let mut wrong = Vec::new();
    for (name, (_, least, _)) in &features {
        let Found { clusters, denied, allowed } = found.remove(&**name).unwrap_or_default();
        let least_verdicts = (denied + allowed) / 20;
        let text = format!("{name}: {clusters} of {SAMPLES}, {denied} denied, {allowed} allowed");
        println!("{text}");
        if clusters < *least || denied < least_verdicts || allowed < least_verdicts {
            wrong.push(format!("{text}, expected {least}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
