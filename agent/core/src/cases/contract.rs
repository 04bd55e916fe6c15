//! The contract with Kubernetes, entry by entry: what kube-proxy's documentation, KEPs and tests
//! promise of compiled Services. The names begin with the numbers of the sections.

use super::notation;
use crate::dump;
use crate::index::Index;
use crate::model::NodeContext;
use crate::tables::Tables;

/// The tables of node n1, in zone z1 and with address 172.18.0.2, for changes in the notation of the
/// cases.
fn tables(lines: &[&str]) -> Tables {
    Tables::full(&index(lines), &context())
}

fn index(lines: &[&str]) -> Index {
    let mut index = Index::new("n1");
    for line in ["node n1 zone=z1 ip=172.18.0.2"].iter().chain(lines) {
        index.apply(notation::change(line).unwrap_or_else(|e| panic!("{e} in {line:?}")));
    }
    index
}

fn context() -> NodeContext {
    let local_addresses = vec!["172.18.0.2".parse().expect("an address")];
    NodeContext { local_addresses, ..NodeContext::default() }
}

/// Tables that follow each change, as those of an agent do.
struct Running {
    index: Index,
    tables: Tables,
}

impl Running {
    fn new(lines: &[&str]) -> Running {
        let mut running = Running { index: index(lines), tables: Tables::default() };
        running.update();
        running
    }

    fn apply(&mut self, line: &str) {
        self.index.apply(notation::change(line).expect("a change"));
        self.update();
    }

    fn update(&mut self) {
        let dirty = self.index.take_dirty();
        self.tables.update(&self.index, &dirty, &context());
    }

    fn dump(&self) -> String {
        dump::tables(&self.tables)
    }
}

/// What the frontend with this text leads to, without its name: `-> BACKENDS`, `drop`, `reject`; empty
/// if it does not exist.
fn frontend(tables: &Tables, key: &str) -> String {
    let found = tables.frontends().find(|(k, _)| dump::key(k) == key);
    found.map_or_else(String::new, |(key, view)| {
        let text = dump::frontend(key, &view);
        let words = text.split_whitespace().skip(2);
        words
            .filter(|w| !w.ends_with("-port") && !w.ends_with("-ip") && !w.ends_with("-balancer"))
            .collect::<Vec<_>>()
            .join(" ")
    })
}

/// Checks what a frontend of these objects leads to.
#[track_caller]
fn check(lines: &[&str], expected: &[(&str, &str)]) {
    let tables = tables(lines);
    for (key, expect) in expected {
        assert_eq!(frontend(&tables, key), *expect, "{key} in\n{}", dump::tables(&tables));
    }
}

const WEB: &str = "service shop/web 10.96.0.1 /TCP:80";

/// A Service with every kind of frontend.
pub const EVERY: &str =
    "service shop/web 10.96.0.1 /TCP:80@30080 lb=203.0.113.1 external=203.0.113.9";
const EVERY_KEY: [&str; 4] =
    ["10.96.0.1:80/TCP", "203.0.113.1:80/TCP", "203.0.113.9:80/TCP", "0.0.0.0:30080/TCP"];

#[test]
fn contract_1_1_headless_services_and_external_names_are_ignored() {
    for line in
        ["service shop/web None /TCP:80", "service shop/web 10.96.0.1 /TCP:80 external-name"]
    {
        assert_eq!(tables(&[line]).frontend_count(), 0, "{line}");
    }
}

#[test]
fn contract_1_2_labels_of_other_proxies_hide_services_and_slices() {
    let slice = "slice shop/s of=web ports=/TCP:8080 10.244.1.1@n1";
    let hidden = format!("{slice} hidden");
    check(&[WEB, slice], &[("10.96.0.1:80/TCP", "-> 10.244.1.1:8080")]);
    check(&[WEB, &hidden], &[("10.96.0.1:80/TCP", "reject")]);
    assert_eq!(tables(&[&format!("{WEB} hidden"), slice]).frontend_count(), 0);

    let mut running = Running::new(&[WEB, slice]);
    let all = running.dump();
    for visible in [WEB, slice] {
        running.apply(&format!("{visible} hidden"));
        assert_ne!(running.dump(), all, "{visible}");
        running.apply(visible);
        assert_eq!(running.dump(), all, "{visible}: removing the label restores it");
    }
}

#[test]
fn contract_1_3_each_family_has_its_addresses_and_endpoints() {
    check(
        &[
            "service shop/web 10.96.0.1,fd00:96::1 /TCP:80@30080 lb=203.0.113.1,fd00:99::1 \
             external=203.0.113.9,fd00:99::9 ranges=198.51.100.0/24,fd00:98::/64",
            "slice shop/a of=web ports=/TCP:8080 10.244.1.1@n1",
            "slice shop/b of=web ports=/TCP:8080 type=IPv6 fd00:1::1@n1",
            "slice shop/c of=web ports=/TCP:8080 type=FQDN",
        ],
        &[
            ("10.96.0.1:80/TCP", "-> 10.244.1.1:8080"),
            ("203.0.113.1:80/TCP", "-> 10.244.1.1:8080 ranges 198.51.100.0/24"),
            ("203.0.113.9:80/TCP", "-> 10.244.1.1:8080"),
            ("0.0.0.0:30080/TCP", "-> 10.244.1.1:8080"),
            ("[fd00:96::1]:80/TCP", "-> [fd00:1::1]:8080"),
            ("[fd00:99::1]:80/TCP", "-> [fd00:1::1]:8080 ranges fd00:98::/64"),
            ("[fd00:99::9]:80/TCP", "-> [fd00:1::1]:8080"),
            ("[::]:30080/TCP", "-> [fd00:1::1]:8080"),
        ],
    );
}

#[test]
fn contract_1_5_slices_without_a_controller_have_backends_anywhere() {
    let slice = "slice shop/hand-made of=web ports=/TCP:5432 192.0.2.7";
    check(&[WEB, slice], &[("10.96.0.1:80/TCP", "-> 192.0.2.7:5432")]);
}

#[test]
fn contract_1_8_ports_without_number_are_skipped() {
    let slice = "slice shop/s of=web ports=/TCP:-,/TCP:8080 10.244.1.1@n1";
    check(&[WEB, slice], &[("10.96.0.1:80/TCP", "-> 10.244.1.1:8080")]);
}

#[test]
fn contract_2_ready_precedes_terminating_and_serving_alone_is_unused() {
    for (endpoints, expect) in [
        ("10.0.0.1 10.0.0.2?unready?terminating", "-> 10.0.0.1:8080"),
        ("10.0.0.1?terminating", "-> 10.0.0.1:8080"),
        ("10.0.0.1?unready?terminating 10.0.0.2?unready", "-> 10.0.0.1:8080"),
        ("10.0.0.1?unready 10.0.0.2?unready?unserving?terminating", "reject"),
    ] {
        let slice = format!("slice shop/s of=web ports=/TCP:8080 {endpoints}");
        check(&[WEB, &slice], &[("10.96.0.1:80/TCP", expect)]);
    }
}

#[test]
fn contract_2_1_unhinted_endpoint_voids_hints() {
    for (endpoints, expect) in [
        ("10.0.0.1?zone=z1 10.0.0.2?zone=z2", "-> 10.0.0.1:8080"),
        ("10.0.0.1?zone=z1 10.0.0.2", "-> 10.0.0.1:8080 10.0.0.2:8080"),
        ("10.0.0.1?zone=z1 10.0.0.2?unready", "-> 10.0.0.1:8080"),
        ("10.0.0.1?node=n2?zone=z1 10.0.0.2?node=n3?zone=z2", "-> 10.0.0.1:8080"),
        ("10.0.0.1?zone=z2 10.0.0.2?zone=z3", "-> 10.0.0.1:8080 10.0.0.2:8080"),
    ] {
        let slice = format!("slice shop/s of=web ports=/TCP:8080 {endpoints}");
        check(&[WEB, &slice], &[("10.96.0.1:80/TCP", expect)]);
    }
}

#[test]
fn contract_2_2_zone_of_the_node_changes_at_run_time() {
    let slice = "slice shop/s of=web ports=/TCP:8080 10.0.0.1?zone=z1 10.0.0.2?zone=z2";
    let mut running = Running::new(&[WEB, slice]);
    for (node, expect) in [
        ("node n1 zone=z1", "-> 10.0.0.1:8080"),
        ("node n1 zone=z2", "-> 10.0.0.2:8080"),
        ("node n1", "-> 10.0.0.1:8080 10.0.0.2:8080"),
        ("node n2 zone=z1", "-> 10.0.0.1:8080 10.0.0.2:8080"),
    ] {
        running.apply(node);
        assert_eq!(frontend(&running.tables, "10.96.0.1:80/TCP"), expect, "{node}");
    }
}

#[test]
fn contract_2_3_internal_and_external_policy_are_independent() {
    let slice = "slice shop/s of=web ports=/TCP:8080 10.0.0.1@n1 10.0.0.2@n2";
    let all = "-> 10.0.0.1:8080 10.0.0.2:8080";
    let local = "-> 10.0.0.1:8080 cluster 10.0.0.1:8080 10.0.0.2:8080";
    for (policies, internal, external) in [
        ("", all, all),
        ("policy=Local", local, all),
        ("external-policy=Local", all, local),
        ("policy=Local external-policy=Local", local, local),
    ] {
        let service = format!("{EVERY} {policies}");
        let [cluster_ip, others @ ..] = EVERY_KEY;
        check(&[&service, slice], &[(cluster_ip, internal)]);
        check(&[&service, slice], &others.map(|key| (key, external)));
    }
}

#[test]
fn contract_2_local_ignores_hints_and_falls_back_to_local_terminating_endpoints() {
    let service = format!("{WEB} policy=Local");
    for (endpoints, expect) in [
        ("10.0.0.1@n1?node=n2 10.0.0.2@n2?node=n1", "-> 10.0.0.1:8080"),
        ("10.0.0.1@n1?unready?terminating 10.0.0.2@n2", "-> 10.0.0.1:8080"),
        ("10.0.0.2@n2", "drop"),
        ("10.0.0.1", "drop"),
        ("10.0.0.1@n1?unready", "reject"),
    ] {
        let slice = format!("slice shop/s of=web ports=/TCP:8080 {endpoints}");
        let tables = tables(&[&service, &slice]);
        let found = frontend(&tables, "10.96.0.1:80/TCP");
        let found = found.split(" cluster").next().unwrap_or_default();
        assert_eq!(found, expect, "{endpoints}");
    }
}

#[test]
fn contract_3_external_policy_does_not_apply_to_clients_on_this_node() {
    let service = format!("{EVERY} external-policy=Local");
    let slice = "slice shop/s of=web ports=/TCP:8080 10.0.0.2@n2";
    let tables = tables(&[&service, slice]);
    for (key, view) in tables.frontends().filter(|(_, view)| view.port.is_some()) {
        let here = format!("{:?}", view.treatment(true));
        assert!(here.starts_with("Forward"), "{}: {here}", dump::key(key));
        let elsewhere = format!("{:?}", view.treatment(false));
        assert_eq!(elsewhere == "Drop", view.row.kind.is_external(), "{}", dump::key(key));
    }
}

/// Eviction fails a Pod without a deletionTimestamp; its object stays, and its endpoint leaves the slice.
#[test]
fn contract_3_2_service_whose_pods_were_evicted_is_rejected() {
    let service = format!("{EVERY} policy=Local external-policy=Local");
    let slice = "slice shop/s of=web ports=/TCP:8080";
    let mut running = Running::new(&[
        &service,
        "pod shop/web-1 uid=1 ip=10.0.0.1",
        &format!("{slice} 10.0.0.1@n1?pod=1"),
    ]);
    assert!(frontend(&running.tables, EVERY_KEY[0]).starts_with("->"));
    running.apply("pod shop/web-1 uid=1 ip=10.0.0.1 failed");
    for endpoints in ["10.0.0.1@n1?unready?unserving?pod=1", ""] {
        running.apply(&format!("{slice} {endpoints}"));
        for key in EVERY_KEY {
            assert_eq!(frontend(&running.tables, key), "reject", "{key} with {endpoints:?}");
        }
    }
}

#[test]
fn contract_3_3_drop_requires_policy_local_and_usable_endpoints_elsewhere() {
    let service = format!("{EVERY} policy=Local");
    let slice = "slice shop/s of=web ports=/TCP:8080 10.0.0.2@n2";
    check(&[&service, slice], &[("10.96.0.1:80/TCP", "drop cluster 10.0.0.2:8080")]);
    check(&[&service, slice], &[("0.0.0.0:30080/TCP", "-> 10.0.0.2:8080")]);
    check(&[&service], &EVERY_KEY.map(|key| (key, "reject")));
}

#[test]
fn contract_3_4_other_ports_and_protocols_of_an_address_are_rejected() {
    let tables = tables(&[EVERY]);
    for address in ["10.96.0.1", "203.0.113.1", "203.0.113.9"] {
        assert_eq!(frontend(&tables, &format!("{address}:*")), "reject");
    }
    assert_eq!(frontend(&tables, "0.0.0.0:*"), "", "ports of the node are its own");
}

#[test]
fn contract_3_5_source_ranges_limit_load_balancers_only() {
    let service = format!("{EVERY} ranges=198.51.100.0/24");
    let [_, load_balancer, ..] = EVERY_KEY;
    for key in EVERY_KEY {
        let limited = if key == load_balancer { "reject ranges 198.51.100.0/24" } else { "reject" };
        check(&[&service], &[(key, limited)]);
    }
}

#[test]
fn contract_3_6_range_of_length_zero_and_ranges_of_another_family_leave_it_open() {
    for (ranges, expect) in [
        ("198.51.100.0/24,0.0.0.0/0", "reject"),
        ("fd00::/8", "reject"),
        ("198.51.100.0/24,::/0", "reject ranges 198.51.100.0/24"),
        ("172.18.0.0/16", "reject ranges 172.18.0.0/16 203.0.113.1/32"),
    ] {
        check(&[&format!("{EVERY} ranges={ranges}")], &[("203.0.113.1:80/TCP", expect)]);
    }
}

#[test]
fn contract_7_1_ports_join_by_name_and_protocol_and_have_the_number_of_their_slice() {
    check(
        &[
            "service shop/web 10.96.0.1 http/TCP:80",
            "slice shop/a of=web ports=http/TCP:8080,metrics/TCP:9090 10.0.0.1",
            "slice shop/b of=web ports=http/TCP:8081 10.0.0.2",
            "slice shop/c of=web ports=http/UDP:8082 10.0.0.3",
            "slice other/d of=web ports=http/TCP:8083 10.0.0.4",
        ],
        &[("10.96.0.1:80/TCP", "-> 10.0.0.1:8080 10.0.0.2:8081")],
    );
}

#[test]
fn contract_7_2_one_address_and_port_in_several_slices_is_one_endpoint() {
    check(
        &[
            WEB,
            "slice shop/a of=web ports=/TCP:8080 10.0.0.1?unready?terminating",
            "slice shop/b of=web ports=/TCP:8080,/TCP:8081 10.0.0.1",
        ],
        &[("10.96.0.1:80/TCP", "-> 10.0.0.1:8080 10.0.0.1:8081")],
    );
}

#[test]
fn contract_7_3_protocols_on_one_number_are_separate() {
    let service = "service shop/dns 10.96.0.1 t/TCP:53@30053 u/UDP:53@30053 s/SCTP:53";
    let slice = "slice shop/s of=dns ports=t/TCP:1,u/UDP:2 10.0.0.1";
    check(
        &[service, slice],
        &[
            ("0.0.0.0:30053/TCP", "-> 10.0.0.1:1"),
            ("0.0.0.0:30053/UDP", "-> 10.0.0.1:2"),
            ("10.96.0.1:53/SCTP", "reject"),
        ],
    );
}

#[test]
fn contract_6_8_service_ports_without_local_endpoints_are_counted_if_there_are_others() {
    let service = "service shop/web 10.96.0.1 /TCP:80@30080 b/TCP:81";
    let of = |policies: &str, slice: &str| {
        let tables = tables(&[&format!("{service} {policies}"), slice]);
        let found = tables.without_local();
        (found.internal, found.external)
    };
    let far = "slice shop/web of=web ports=/TCP:80,b/TCP:81 10.0.0.2@n2";
    let near = "slice shop/web of=web ports=/TCP:80,b/TCP:81 10.0.0.2@n2 10.0.0.1@n1";
    let none = "slice shop/web of=web ports=/TCP:80,b/TCP:81 10.0.0.2@n2?unready";
    assert_eq!(of("policy=Local", far), ([2, 0], [0, 0]));
    assert_eq!(of("", far), ([0, 0], [0, 0]));
    for slice in [near, none] {
        assert_eq!(of("policy=Local", slice), ([0, 0], [0, 0]), "{slice}");
    }
    assert_eq!(of("external-policy=Local", far), ([0, 0], [2, 0]));
}

#[test]
fn contract_7_4_address_and_port_precede_a_node_port() {
    let first = "service shop/a 10.96.0.1 /TCP:30080 lb=172.18.0.2";
    let second = "service shop/b 10.96.0.2 /TCP:80@30080";
    let tables = tables(&[first, second]);
    assert_eq!(frontend(&tables, "172.18.0.2:30080/TCP"), "reject");
    assert_eq!(frontend(&tables, "0.0.0.0:30080/TCP"), "reject");
    assert_eq!(tables.conflicts().count(), 0, "the other addresses of the node have the NodePort");
    assert_eq!(frontend(&tables, "172.18.0.2:*"), "", "other ports of a node are its own");
}

#[test]
fn contract_7_5_the_oldest_service_has_an_address_and_conflicts_are_reported() {
    let old = "service shop/old 10.96.0.1 /TCP:80@30080 created=1 external=203.0.113.9";
    let new = "service shop/new 10.96.0.2 /TCP:80@30080 b/TCP:81 created=2 external=203.0.113.9";
    let tables = tables(&[new, old]);
    let mut conflicts = tables.conflicts().map(|c| {
        let winner = c.services().next().map(ToString::to_string);
        (dump::key(&c.key), winner.unwrap_or_default())
    });
    assert_eq!(conflicts.next(), Some(("0.0.0.0:30080/TCP".into(), "shop/old".into())));
    assert_eq!(conflicts.next(), Some(("203.0.113.9:80/TCP".into(), "shop/old".into())));
    assert_eq!(conflicts.next(), None);
    assert_eq!(frontend(&tables, "203.0.113.9:81/TCP"), "reject", "another port works");
}
