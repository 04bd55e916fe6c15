//! Random frontends in random clusters: what is sent to a ClusterIP, a NodePort or a hostPort is judged by the backend
//! that it is translated to, as the oracle of policies says. The rows of the frontends are drawn, not compiled.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use packet_tests::random::{Random, cases};
use packet_tests::{Action, Datapath, Endpoint, NODE, Sets};
use proptest::strategy::{Strategy, ValueTree};
use sluice_abi::{
    Backend, DropReason, Frontend, FrontendKey, HostPortKey, frontend_flags, map, proto,
};
use sluice_core::generate::{self, lease_lines, manifests, shrink};
use sluice_core::model::Object;
use sluice_core::oracle::NewFlow;

use super::world::{Denied, From, World, first_packet, peers, reason_of, runner, send, write};

/// Flows that are judged in an ordinary run; `CASES` has another number.
const CASES: usize = 6_000;
/// Flows for each cluster.
const FLOWS: usize = 40;
/// Frontends of each kind in a cluster.
const OF_A_KIND: u8 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    ClusterIp,
    NodePort,
    HostPort,
}

/// A frontend with its backends, of which a hostPort has one.
#[derive(Clone, Debug)]
struct Service {
    kind: Kind,
    number: u8,
    protocol: u8,
    is_local: bool,
    backends: Vec<Endpoint>,
}

/// What has to occur, in a thousandth of the flows, for each kind.
const SHARES: [(From, Option<DropReason>, usize); 6] = [
    (From::Pod, None, 10),
    (From::Pod, Some(DropReason::PolicyEgress), 10),
    (From::Pod, Some(DropReason::PolicyIngress), 1),
    (From::Pod, Some(DropReason::PolicyPending), 5),
    (From::Netdev, None, 10),
    (From::Netdev, Some(DropReason::PolicyIngress), 3),
];
/// As [`SHARES`]: flows with another verdict than a flow to the frontend itself would have.
const TRANSLATED: usize = 30;

impl Service {
    /// A frontend whose backends are pods of the node, pods of others, or hosts outside.
    fn random(random: &mut Random, kind: Kind, number: u8, pods: &[Ipv4Addr]) -> Service {
        let ports: Vec<(u8, u16)> = generate::policy_probes();
        let protocol = *random.pick(&[proto::TCP, proto::TCP, proto::UDP, proto::SCTP]);
        let ports: Vec<u16> =
            ports.into_iter().filter(|p| p.0 == protocol && p.1 != 0).map(|p| p.1).collect();
        let others = [[10, 244, 2, 9], [10, 9, 9, 9], [198, 51, 100, 7]].map(Ipv4Addr::from);
        let count = if kind == Kind::HostPort { 1 } else { 1 + random.below(3) };
        let backends = (0..count).map(|_| {
            let is_other = kind != Kind::HostPort && random.below(4) == 0;
            let address = if is_other { *random.pick(&others) } else { *random.pick(pods) };
            (address.octets(), *random.pick(&ports))
        });
        let mut backends: Vec<Endpoint> = backends.collect();
        backends.sort_unstable();
        backends.dedup();
        Service { kind, number, protocol, is_local: random.below(3) == 0, backends }
    }

    fn address(&self) -> Endpoint {
        let number = u16::from(self.number);
        match self.kind {
            Kind::ClusterIp => ([10, 96, 0, 100 + self.number], 80 + number),
            Kind::NodePort => (NODE, 30_000 + number),
            Kind::HostPort => (NODE, 8_080 + number),
        }
    }

    fn write(&self, datapath: &Datapath) {
        let (address, port) = self.address();
        let service = u32::from(self.number) + 1;
        let flags = if self.is_local { frontend_flags::LOCAL } else { 0 };
        let frontend = |flags| Frontend { service, flags };
        match self.kind {
            Kind::HostPort => {
                return datapath.host_port((address, port, self.protocol), self.backends[0]);
            }
            Kind::ClusterIp => datapath.frontend((address, port, self.protocol), frontend(flags)),
            Kind::NodePort => {
                let flags = flags | frontend_flags::EXTERNAL;
                datapath.frontend(([0; 4], port, self.protocol), frontend(flags));
            }
        }
        // Which set a client gets is not the subject.
        let (cluster, local) = (self.backends.clone(), self.backends.clone());
        datapath.service_port(
            service,
            self.protocol,
            &Sets { cluster, local, affinity_seconds: 0 },
        );
    }

    /// The flow after translation to a backend.
    fn translated(&self, client: Ipv4Addr, (address, port): Endpoint) -> NewFlow {
        NewFlow {
            source: client.into(),
            destination: Ipv4Addr::from(address).into(),
            protocol: self.protocol,
            port,
            own_node: false,
        }
    }
}

/// Frontends of each kind.
fn services(random: &mut Random, pods: &[Ipv4Addr]) -> Vec<Service> {
    let kinds = [Kind::ClusterIp, Kind::NodePort, Kind::HostPort];
    let numbered = (0..OF_A_KIND).flat_map(|_| kinds).zip(0..);
    numbered.map(|(kind, number)| Service::random(random, kind, number, pods)).collect()
}

/// Writes a cluster with its frontends instead of others.
fn write_all(datapath: &Datapath, world: &World, services: &[Service]) {
    write(datapath, world);
    let frontends = datapath.map::<FrontendKey, Frontend>(map::FRONTENDS);
    for (key, _) in frontends.entries().unwrap() {
        frontends.delete(&key).unwrap();
    }
    let host_ports = datapath.map::<HostPortKey, Backend>(map::HOST_PORTS);
    for (key, _) in host_ports.entries().unwrap() {
        host_ports.delete(&key).unwrap();
    }
    services.iter().for_each(|service| service.write(datapath));
}

/// Sends the first packet of a flow to a frontend. Returns the reason of policies for which it was dropped, or what
/// differs from the verdicts of the oracle.
fn judge(
    datapath: &Datapath,
    world: &World,
    service: &Service,
    (hook, client, sport): (From, Ipv4Addr, u16),
) -> Result<Option<DropReason>, String> {
    let (address, port) = service.address();
    let flow = service.translated(client, (address, port));
    let run = send(datapath, hook, &first_packet(flow, sport));
    let found = reason_of(&run);
    let of = |backend: &Endpoint| world.denied(service.translated(client, *backend));
    let is_expected = match found {
        // One that admits it has it.
        None if run.action == Action::Redirect => {
            let packet = run.packet();
            let backend = (packet.dst, packet.dport());
            service.backends.contains(&backend) && of(&backend).reason().is_none()
        }
        None => false,
        Some(reason) => service.backends.iter().any(|b| of(b).reason() == Some(reason)),
    };
    if is_expected {
        return Ok(found);
    }
    let denied: Vec<Denied> = service.backends.iter().map(of).collect();
    let (action, labels) = (run.action, run.labels());
    Err(format!("{found:?} ({action:?}, {labels:?}), expected of each backend: {denied:?}"))
}

#[test]
fn flows_to_frontends_are_judged_by_their_backends_as_the_oracle_says() {
    let cases = cases(CASES);
    let mut random = Random::from_environment();
    let mut runner = runner(&mut random);
    let worlds = (generate::policy_objects(), generate::leases());
    let datapath = Datapath::node();
    let mut shares: BTreeMap<String, usize> = BTreeMap::new();
    let share_of = |kind: Kind, hook: From, reason: Option<DropReason>| {
        format!("{kind:?} from {hook:?}: {reason:?}")
    };
    let clients = peers();
    let (mut judged, mut translated, mut sport) = (0, 0, 1024);
    while judged < cases {
        let (objects, leases) = worlds.new_tree(&mut runner).unwrap().current();
        let world = World::new(objects, leases);
        let pods = world.pods();
        if pods.is_empty() {
            continue;
        }
        let services = services(&mut random, &pods);
        write_all(&datapath, &world, &services);
        for _ in 0..FLOWS {
            let service = random.pick(&services);
            let is_pod = random.below(2) == 0;
            let client = if is_pod { *random.pick(&pods) } else { *random.pick(&clients) };
            let hook = if world.has(client) { From::Pod } else { From::Netdev };
            // A pod that reaches itself has a test of its own. Others: as of `World::probe`.
            let is_itself = service.backends.iter().any(|backend| backend.0 == client.octets());
            if is_itself || world.is_free(client) || client.octets() == NODE {
                continue;
            }
            sport = if sport == 60_000 { 1024 } else { sport + 1 };
            judged += 1;
            match judge(&datapath, &world, service, (hook, client, sport)) {
                Ok(reason) => {
                    *shares.entry(share_of(service.kind, hook, reason)).or_default() += 1;
                    let itself = world.denied(service.translated(client, service.address()));
                    translated += usize::from(itself.reason() != reason);
                }
                Err(difference) => {
                    let other = Datapath::node();
                    let fails = |objects: &[Object]| {
                        let world = World::new(objects.to_vec(), world.leases.clone());
                        write_all(&other, &world, &services);
                        judge(&other, &world, service, (hook, client, 1000)).is_err()
                    };
                    let smallest = shrink(&world.objects, fails);
                    let comment = format!(
                        "{client} from {hook:?} to {service:?}\n{difference}\n{}",
                        lease_lines(&world.leases)
                    );
                    panic!("\n{}", manifests(&smallest, &comment));
                }
            }
        }
    }
    if cases >= CASES {
        println!("{shares:#?}, other verdicts than of the frontend: {translated}");
        for kind in [Kind::ClusterIp, Kind::NodePort, Kind::HostPort] {
            for (hook, reason, least) in SHARES {
                let share = share_of(kind, hook, reason);
                let found = shares.get(&share).copied().unwrap_or_default();
                assert!(found * 1000 > cases * least, "{share}: {found} of {shares:?}");
            }
        }
        assert!(translated * 1000 > cases * TRANSLATED, "{translated}");
    }
}
