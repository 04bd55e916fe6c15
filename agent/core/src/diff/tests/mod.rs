//! Plans for single situations. The properties cover the general case.

mod ranges;

use sluice_abi::{Addr, BackendRow, Frontend, FrontendKey, PortBe, ServicePort, map, proto};

use super::{Capacity, CapacityError, Plan, ReadBack, RealizedState};
use crate::cases::notation;
use crate::index::Index;
use crate::model::{Change, Kind, NodeContext, ObjectName};
use crate::properties::kernel::{Kernel, desired_effect, rows};
use crate::properties::plans::{Agent, CAPACITY, carry_out};
use crate::tables::{Changed, Tables};

fn changes(lines: &[&str]) -> Vec<Change> {
    lines.iter().map(|line| notation::change(line).expect("a change")).collect()
}

fn apply(kernel: &mut Kernel, agent: &mut Agent, lines: &[&str]) -> Plan {
    let plan = agent.apply_and_plan(&changes(lines));
    let rows = rows(&plan.writes);
    carry_out(kernel, &rows, rows.len(), &agent.tables);
    plan
}

/// Like [`apply`], for a plan that lacks capacity: frontends may have neither their old nor their
/// new effect.
fn apply_beyond_capacity(kernel: &mut Kernel, agent: &mut Agent, lines: &[&str]) -> Plan {
    let plan = agent.apply_and_plan(&changes(lines));
    kernel.begin_plan();
    rows(&plan.writes).into_iter().for_each(|row| kernel.apply(row));
    plan
}

/// Applies changes that lack capacity for `missing` objects, and repeats plans without changes as
/// long as one may succeed. The last one programs everything.
#[track_caller]
fn apply_and_retry(kernel: &mut Kernel, agent: &mut Agent, lines: &[&str], missing: usize) {
    let mut plan = apply_beyond_capacity(kernel, agent, lines);
    assert_eq!(plan.over_capacity.len(), missing);
    for _ in 0..10 {
        if !plan.worth_retrying() {
            assert_eq!(plan.over_capacity, []);
            assert_eq!(kernel.effect(), desired_effect(&agent.tables));
            return;
        }
        plan = apply_beyond_capacity(kernel, agent, &[]);
    }
    panic!("retries do not end");
}

/// Ids of the Service ports in the kernel.
fn services(kernel: &Kernel) -> Vec<u32> {
    kernel.services.keys().copied().collect()
}

const SERVICE: &str = "service shop/web 10.96.0.7 /UDP:53";
const TWO_ENDPOINTS: &str = "slice shop/web of=web ports=/UDP:53 10.244.1.2@n1 10.244.1.3@n1";
/// What the Service above, its wildcard row and the context of the properties need.
const EXACT: Capacity = Capacity {
    frontends: 2,
    services: 1,
    source_ranges: 0,
    slots: 2,
    backends: 2,
    networks: 2,
    ..Capacity::NONE
};

#[test]
fn no_objects_and_empty_maps_need_no_writes() {
    let mut realized = RealizedState::new(ReadBack::default());
    let plan = realized.plan(&Tables::default(), &Changed::default());
    assert!(plan.writes.is_empty());
}

/// Each plan replaces the only endpoint of a Service: it frees a slot and a backend id and needs
/// new ones.
#[test]
fn slots_and_ids_are_reused_by_the_third_plan_at_the_earliest() {
    let mut kernel = Kernel::new(CAPACITY);
    let mut agent = Agent::start(&kernel);
    apply(&mut kernel, &mut agent, &[SERVICE]);
    let mut offsets = Vec::new();
    for host in 1..=8 {
        let slice = format!("slice shop/web of=web ports=/UDP:53 10.244.1.{host}@n1");
        apply(&mut kernel, &mut agent, &[&slice]);
        offsets.extend(kernel.services.values().map(|port| port.cluster.offset));
    }
    assert_eq!(offsets, [0, 1, 2, 3, 0, 1, 2, 3]);
}

/// A program that holds a frontend finds its backends.
#[test]
fn frontends_are_deleted_before_their_backends() {
    let mut kernel = Kernel::new(CAPACITY);
    let mut agent = Agent::start(&kernel);
    apply(&mut kernel, &mut agent, &[SERVICE, TWO_ENDPOINTS]);
    let plan = apply(&mut kernel, &mut agent, &["delete service shop/web"]);
    let deleted: Vec<_> = plan.writes.iter().map(|w| (w.table().name, w.len())).collect();
    assert_eq!(deleted, [(map::FRONTENDS, 2), (map::SERVICES, 1), (map::BACKENDS, 2)]);
}

#[test]
fn rows_that_fit_exactly_are_written() {
    let mut kernel = Kernel::new(EXACT);
    let mut agent = Agent::start(&kernel);
    let plan = apply(&mut kernel, &mut agent, &[SERVICE, TWO_ENDPOINTS]);
    assert_eq!(plan.over_capacity, []);
    assert_eq!(kernel.effect(), desired_effect(&agent.tables));
}

/// A Cluster and a Local set with the same endpoints need slots twice and ids once.
#[test]
fn sets_with_the_same_endpoints_fit_exactly() {
    let mut kernel = Kernel::new(Capacity { slots: 4, ..EXACT });
    let mut agent = Agent::start(&kernel);
    let service = "service shop/web 10.96.0.7 /UDP:53 policy=Local";
    let plan = apply(&mut kernel, &mut agent, &[service, TWO_ENDPOINTS]);
    assert_eq!(plan.over_capacity, []);
    assert_eq!(kernel.backends.len(), 2);
    assert_eq!(kernel.effect(), desired_effect(&agent.tables));
}

#[test]
fn error_names_the_map_that_is_full() {
    let error = |capacity: Capacity| {
        let mut agent = Agent::start(&Kernel::new(capacity));
        let plan = agent.apply_and_plan(&changes(&[SERVICE, TWO_ENDPOINTS]));
        assert_eq!(plan.over_capacity.len(), 1, "{:?}", plan.over_capacity);
        assert!(!plan.worth_retrying(), "nothing is freed");
        plan.over_capacity[0].clone()
    };
    let frontends = error(Capacity { frontends: 1, ..EXACT });
    assert!(matches!(frontends, CapacityError::Frontends { max: 1, .. }));
    let services = error(Capacity { services: 0, ..EXACT });
    assert!(matches!(services, CapacityError::Services { max: 0, .. }));
    let slots = error(Capacity { slots: 1, ..EXACT });
    assert!(matches!(slots, CapacityError::Slots { needed: 2, free: 1, max: 1, .. }));
    let backends = error(Capacity { backends: 1, ..EXACT });
    assert!(matches!(backends, CapacityError::Backends { needed: 2, used: 0, max: 1, .. }));
    let networks = error(Capacity { networks: 1, ..EXACT });
    assert!(matches!(networks, CapacityError::Networks { max: 1, .. }));
    assert!(networks.to_string().starts_with("network 172.18.0.2/32 is not programmed"));
}

#[test]
fn service_waits_for_quarantined_slots() {
    let mut kernel = Kernel::new(Capacity { slots: 2, ..CAPACITY });
    let mut agent = Agent::start(&kernel);
    apply(&mut kernel, &mut agent, &[SERVICE, TWO_ENDPOINTS]);
    let other = "slice shop/web of=web ports=/UDP:53 10.244.1.4@n1 10.244.1.5@n1";
    // The old slots are freed by a plan that deletes the Service, and needed by the next.
    apply(&mut kernel, &mut agent, &["delete service shop/web"]);
    apply_and_retry(&mut kernel, &mut agent, &[SERVICE, other], 1);
}

#[test]
fn frontend_waits_for_the_deletion_of_another() {
    let mut kernel = Kernel::new(Capacity { frontends: 2, ..CAPACITY });
    let mut agent = Agent::start(&kernel);
    apply(&mut kernel, &mut agent, &[SERVICE]);
    let replacement = ["delete service shop/web", "service shop/api 10.96.0.8 /UDP:53"];
    apply_and_retry(&mut kernel, &mut agent, &replacement, 2);
}

#[test]
fn comparison_of_all_rows_finds_unreported_changes() {
    let mut kernel = Kernel::new(CAPACITY);
    let mut agent = Agent::start(&kernel);
    apply(&mut kernel, &mut agent, &[SERVICE]);
    let mut index = Index::new("n1");
    index.apply(Change::Replace(Kind::ServiceCidr, vec![]));
    let tables = Tables::full(&index, &NodeContext::default());
    assert!(agent.realized.plan(&tables, &Changed::default()).writes.is_empty());
    agent.realized.compare_all();
    let plan = agent.realized.plan(&tables, &Changed::default());
    assert_eq!(plan.rows(), 5, "two frontends, a Service port and two networks are deleted");
}

/// Two Services have one endpoint: each has its own id for it, which ends when that Service loses
/// the endpoint.
#[test]
fn endpoint_of_two_services_is_stale_for_the_one_that_loses_it() {
    let mut kernel = Kernel::new(CAPACITY);
    let mut agent = Agent::start(&kernel);
    let other_slice = "slice shop/other of=other ports=/UDP:53 10.244.1.2@n1";
    let other = "service shop/other 10.96.0.8 /UDP:53";
    apply(&mut kernel, &mut agent, &[SERVICE, TWO_ENDPOINTS, other, other_slice]);
    assert_eq!(kernel.backends.len(), 3);
    let one_endpoint = "slice shop/web of=web ports=/UDP:53 10.244.1.3@n1";
    let plan = apply(&mut kernel, &mut agent, &[one_endpoint]);
    assert_eq!(kernel.backends.len(), 2);
    let [stale] = &plan.stale_udp[..] else { panic!("{:?}", plan.stale_udp) };
    assert_eq!(stale.backend.addr, Addr::v4([10, 244, 1, 2]));
    assert!(!kernel.backends.contains_key(&stale.id));
}

/// An unselected backend is in no slot: after a restart, its Service port claims its id again.
#[test]
fn unselected_backend_keeps_its_id_over_restart_and_comparison() {
    let mut kernel = Kernel::new(CAPACITY);
    let mut agent = Agent::start(&kernel);
    let slice = |hint: &str| {
        format!(
            "slice shop/web of=web ports=/UDP:53 10.244.1.2@n1?node=n1 10.244.1.3@n2?node={hint}"
        )
    };
    let both = [SERVICE, &slice("n1")];
    apply(&mut kernel, &mut agent, &both);
    let before = kernel.backends.clone();
    let unselected = [SERVICE, &slice("n2")];
    let plan = apply(&mut kernel, &mut agent, &unselected);
    assert_eq!((plan.stale_udp, &kernel.backends), (vec![], &before));
    agent.realized.resync(kernel.read_back());
    let plan = apply(&mut kernel, &mut agent, &[]);
    assert_eq!((plan.rows(), &kernel.backends), (0, &before));
    kernel.agent_restarts();
    let mut agent = Agent::start(&kernel);
    let plan = apply(&mut kernel, &mut agent, &unselected);
    assert_eq!((plan.rows(), &kernel.backends), (0, &before));
    let plan = apply(&mut kernel, &mut agent, &both);
    assert_eq!((plan.stale_udp, &kernel.backends), (vec![], &before));
}

#[test]
fn duplicate_of_a_udp_backend_is_stale_by_its_id() {
    let mut kernel = Kernel::new(CAPACITY);
    let mut agent = Agent::start(&kernel);
    apply(&mut kernel, &mut agent, &[SERVICE, TWO_ENDPOINTS]);
    let (_, backend) = kernel.backends.first_key_value().expect("a backend");
    let (duplicate, backend) = (1000, *backend);
    kernel.backends.insert(duplicate, backend);
    agent.realized.resync(kernel.read_back());
    let plan = apply(&mut kernel, &mut agent, &[]);
    assert!(!kernel.backends.contains_key(&duplicate));
    let stale: Vec<u32> = plan.stale_udp.iter().map(|stale| stale.id).collect();
    assert_eq!(stale, [duplicate]);

    let plan = apply(&mut kernel, &mut agent, &["delete slice shop/web"]);
    assert_eq!(plan.stale_udp.len(), 2);
}

#[test]
fn new_service_does_not_get_the_id_of_a_deleted_frontend() {
    let mut kernel = Kernel::new(CAPACITY);
    let key = FrontendKey { port: PortBe::new(80), proto: proto::TCP, ..FrontendKey::default() };
    kernel.frontends.insert(key, Frontend { service: 7, ..Frontend::default() });
    kernel.services.insert(7, ServicePort::default());
    let mut agent = Agent::start(&kernel);
    apply(&mut kernel, &mut agent, &[SERVICE]);
    assert_eq!(services(&kernel), [8]);
}

#[test]
fn backend_with_id_zero_is_deleted() {
    let mut kernel = Kernel::new(CAPACITY);
    kernel.backends.insert(0, BackendRow { proto: proto::UDP, ..BackendRow::default() });
    let mut agent = Agent::start(&kernel);
    apply(&mut kernel, &mut agent, &[]);
    assert!(kernel.backends.is_empty());
}

#[test]
fn orphaned_backend_counts_towards_the_capacity() {
    let mut kernel = Kernel::new(Capacity { backends: 2, ..CAPACITY });
    kernel.backends.insert(0, BackendRow::default());
    let mut agent = Agent::start(&kernel);
    apply_and_retry(&mut kernel, &mut agent, &[SERVICE, TWO_ENDPOINTS], 1);
}

/// The plan that fails flips a Service port to new slots before the failure.
#[test]
fn slots_and_ids_of_a_failed_plan_are_not_reused_by_the_next() {
    let mut kernel = Kernel::new(CAPACITY);
    let mut agent = Agent::start(&kernel);
    apply(&mut kernel, &mut agent, &[SERVICE, TWO_ENDPOINTS]);
    assert_eq!(services(&kernel), [1]);
    let other = "slice shop/web of=web ports=/UDP:53 10.244.1.4@n1 10.244.1.5@n1";
    let failed = agent.apply_and_plan(&changes(&[other, "service shop/api 10.96.0.8 /UDP:53"]));
    let done = rows(&failed.writes);
    let flipped =
        done.iter().rposition(|(table, ..)| *table == "SERVICES").expect("a Service port");
    carry_out(&mut kernel, &done, flipped + 1, &agent.tables);
    agent.realized.resync(kernel.read_back());

    apply(&mut kernel, &mut agent, &["delete service shop/api", TWO_ENDPOINTS]);
    let offset = kernel.services.values().map(|port| port.cluster.offset).max();
    assert_eq!(offset, Some(4), "0 and 2 were in use before and after the failed plan");
    apply(&mut kernel, &mut agent, &["service shop/db 10.96.0.9 /UDP:53"]);
    assert_eq!(services(&kernel), [1, 3], "2 was assigned to shop/api");
}

#[test]
fn slots_of_a_damaged_service_port_are_not_freed() {
    let mut kernel = Kernel::new(CAPACITY);
    let mut agent = Agent::start(&kernel);
    apply(&mut kernel, &mut agent, &[SERVICE, TWO_ENDPOINTS]);
    // The last id is read last: its slots belong to the Service port that is read first.
    let (_, value) = kernel.services.first_key_value().expect("a Service port");
    let value = *value;
    kernel.services.insert(1000, value);
    agent.realized.resync(kernel.read_back());
    apply(&mut kernel, &mut agent, &[]);
    assert_eq!(services(&kernel), [1]);
    for host in 1..=6 {
        let service = format!("service shop/other 10.96.1.{host} /TCP:80");
        let slice = format!(
            "slice shop/other of=other ports=/TCP:80 10.244.2.{host}@n1 10.244.3.{host}@n1"
        );
        apply(&mut kernel, &mut agent, &[&service, &slice]);
    }
}

/// The writes of a plan, by table.
fn lengths(plan: &Plan) -> Vec<(&'static str, usize)> {
    plan.writes.iter().map(|write| (write.table().name, write.len())).collect()
}

/// Every frontend of a Service port follows from one row.
#[test]
fn change_of_endpoints_writes_one_row_of_the_service_port() {
    let mut kernel = Kernel::new(CAPACITY);
    let mut agent = Agent::start(&kernel);
    let dual_stack = "service shop/web 10.96.0.7,fd00:96::7 /TCP:53";
    let slice = "slice shop/web of=web ports=/TCP:53 10.244.1.2@n1";
    apply(&mut kernel, &mut agent, &[dual_stack, slice]);
    assert_eq!((services(&kernel), kernel.frontends.len()), (vec![1, 2], 4));
    let slice = "slice shop/web of=web ports=/TCP:53 10.244.1.2@n1 10.244.1.3@n1";
    let plan = apply(&mut kernel, &mut agent, &[slice]);
    assert_eq!(lengths(&plan), [(map::BACKENDS, 1), (map::SLOTS, 2), (map::SERVICES, 1)]);
}

/// A program that finds the old frontend must find its Local set.
#[test]
fn frontends_leave_the_local_set_before_it_is_removed() {
    let mut kernel = Kernel::new(CAPACITY);
    let mut agent = Agent::start(&kernel);
    let local = "service shop/web 10.96.0.7 /UDP:53 policy=Local";
    apply(&mut kernel, &mut agent, &[local, TWO_ENDPOINTS]);
    let plan = apply(&mut kernel, &mut agent, &[SERVICE]);
    assert_eq!(lengths(&plan), [(map::FRONTENDS, 1), (map::SERVICES, 1)]);
    let plan = apply(&mut kernel, &mut agent, &[local]);
    assert_eq!(lengths(&plan), [(map::SLOTS, 2), (map::SERVICES, 1), (map::FRONTENDS, 1)]);
}

/// While no agent ran, another Service got an address. Its id stays with neither: a program that
/// holds the old frontend must not find the new endpoints of another Service.
#[test]
fn id_whose_frontends_have_different_services_after_a_restart_is_replaced() {
    let mut kernel = Kernel::new(CAPACITY);
    let mut agent = Agent::start(&kernel);
    let dual_stack = "service shop/web 10.96.0.7 a/UDP:53 a/UDP:54";
    let slice = "slice shop/web of=web ports=a/UDP:53 10.244.1.2@n1";
    apply(&mut kernel, &mut agent, &[dual_stack, slice]);
    assert_eq!(services(&kernel), [1]);
    kernel.agent_restarts();
    let mut agent = Agent::start(&kernel);
    let older = "service shop/older 10.96.0.7 a/UDP:54 created=-5";
    let of_older = "slice shop/older of=older ports=a/UDP:54 10.244.1.9@n1";
    apply(&mut kernel, &mut agent, &[dual_stack, slice, older, of_older]);
    assert_eq!(services(&kernel), [2, 3]);
}

/// Ranges of ServiceCIDR objects that a former agent wrote stay until the objects have been listed.
#[test]
fn ranges_of_cluster_ips_stay_until_they_are_listed() {
    let mut kernel = Kernel::new(CAPACITY);
    let mut agent = Agent::start(&kernel);
    let cidrs = ["service-cidr a 10.112.0.0/16", "service-cidr b 10.113.0.0/16"];
    apply(&mut kernel, &mut agent, &cidrs);
    let before = kernel.networks.clone();
    kernel.agent_restarts();
    let mut agent = Agent::start(&kernel);
    agent.index = Index::new("n1");
    let plan = apply(&mut kernel, &mut agent, &[SERVICE]);
    assert_eq!((lengths(&plan).last(), &kernel.networks), (Some(&(map::FRONTENDS, 2)), &before));
    // One arrives with the list, the other was removed while no agent ran.
    let list = [
        changes(&[cidrs[0]]),
        vec![Change::Retain(Kind::ServiceCidr, vec![ObjectName::cluster("a")])],
    ];
    let plan = agent.apply_and_plan(&list.concat());
    assert_eq!(lengths(&plan), [(map::NETWORKS, 1)]);
    assert!(plan.writes[0].is_delete());
}
