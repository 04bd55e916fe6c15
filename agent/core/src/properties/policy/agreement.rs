//! Compiled rows, and explanations, agree with the oracle.

use std::fmt;
use std::net::IpAddr;

use proptest::prelude::*;
use sluice_abi::PolicyDirection;

use super::index_of;
use crate::generate::{self, lease_lines, manifests, shrink};
use crate::index::{Index, PolicyDirty};
use crate::model::Object;
use crate::oracle::{Cluster, Sandbox, Side, side_allows};
use crate::policy::{Judgement, LocalPod, Policies, PolicyRows, Query, Verdict};
use crate::properties::cases;

/// A cluster; a failing one is printed as manifests.
#[derive(Clone)]
struct Case {
    objects: Vec<Object>,
    local: Vec<LocalPod>,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} objects before they were made fewer", self.objects.len())
    }
}

/// One side of a flow.
#[derive(Clone, Copy, Debug)]
struct Probe<'a> {
    pod: &'a LocalPod,
    direction: PolicyDirection,
    peer: IpAddr,
    protocol: u8,
    port: u16,
}

/// A cluster, with what the compiler makes of it.
struct Compiled<'a> {
    objects: &'a [Object],
    sandboxes: Vec<Sandbox>,
    index: Index,
    policies: Policies,
    rows: PolicyRows,
}

impl<'a> Compiled<'a> {
    fn new(objects: &'a [Object], local: &[LocalPod]) -> Compiled<'a> {
        let index = index_of(objects);
        let mut policies = Policies::default();
        policies.update(&index, &PolicyDirty::everything(), local);
        let rows = policies.rows();
        let sandboxes = local.iter().map(generate::sandbox).collect();
        Compiled { objects, sandboxes, index, policies, rows }
    }

    /// How the rows or the explanation differ from the oracle.
    fn difference(&self, probe: Probe<'_>) -> Option<String> {
        let Probe { pod, direction, peer, protocol, port } = probe;
        let side = match direction {
            PolicyDirection::Egress => Side::Egress,
            PolicyDirection::Ingress => Side::Ingress,
        };
        let cluster = Cluster { objects: self.objects, sandboxes: &self.sandboxes };
        let expected = side_allows(cluster, &generate::sandbox(pod), side, peer, protocol, port);
        let differs = |what: String| {
            format!(
                "{side:?} of {}, peer {peer}, protocol {protocol}, port {port}: \
                 expected allowed: {expected}, {what}",
                pod.address
            )
        };
        let judged = self.rows.judge(pod, direction, peer, protocol, port);
        if (judged == Judgement::Pass) != expected {
            return Some(differs(format!("rows: {judged:?}")));
        }
        let query = Query { pod: pod.name.clone()?, direction, peer, protocol, port };
        let verdict = self.policies.explain(&self.index, &query).verdict;
        let allowed = matches!(verdict, Verdict::Allowed(_) | Verdict::NotIsolated);
        (allowed != expected).then(|| differs(format!("explained: {verdict:?}")))
    }
}

fn probes(local: &[LocalPod]) -> impl Iterator<Item = Probe<'_>> {
    let sides = local.iter().flat_map(|pod| PolicyDirection::ALL.map(|d| (pod, d)));
    let peers = generate::policy_peers();
    let ends = sides.flat_map(move |side| peers.clone().into_iter().map(move |peer| (side, peer)));
    let ports = generate::policy_probes();
    ends.flat_map(move |((pod, direction), peer)| {
        let of = move |(protocol, port)| Probe { pod, direction, peer, protocol, port };
        ports.clone().into_iter().map(of)
    })
}

proptest! {
    // A failing case is made smaller by its own rules, which proptest does not know.
    #![proptest_config(ProptestConfig {
        cases: cases(300), max_shrink_iters: 0, failure_persistence: None, ..Default::default()
    })]

    #[test]
    fn compiled_policies_agree_with_oracle(
        case in (generate::policy_objects(), generate::leases())
            .prop_map(|(objects, local)| Case { objects, local }),
    ) {
        let Case { objects, local } = &case;
        let compiled = Compiled::new(objects, local);
        for probe in probes(local) {
            if compiled.difference(probe).is_none() {
                continue;
            }
            let difference = |objects: &[Object]| Compiled::new(objects, local).difference(probe);
            let smallest = shrink(objects, |objects| difference(objects).is_some());
            let text = difference(&smallest).unwrap_or_default();
            let comment = format!("{text}\n{}", lease_lines(local));
            prop_assert!(false, "\n{}", manifests(&smallest, &comment));
        }
    }
}
