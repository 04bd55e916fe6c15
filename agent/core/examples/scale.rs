//! Measures compiling and planning for a large cluster:
//! `cargo run --release -p sluice-core --example scale`.
//!
//! Arguments: number of Services (10000), endpoints per Service (10), whether each has an external IP and
//! an address of a load balancer beside its ClusterIP (0).
#![allow(clippy::cast_precision_loss, reason = "approximate figures")]

use std::env;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use sluice_core::diff::Capacity;
use sluice_core::index::Index;
use sluice_core::model::{
    AddressType, Change, Endpoint, EndpointPort, EndpointSlice, ExternalAccess, Kind, Node, Object,
    ObjectName, Port, Protocol, Service, ServicePort, TrafficPolicy,
};
use sluice_core::table::{Backends, Frontends, Networks, Services, Slots, SourceRanges};
use sluice_core::{NodeContext, ReadBack, RealizedState, Rows, Table, TableSpec, Tables, Write};

fn main() {
    let mut arguments = env::args().skip(1).map(|a| a.parse::<u32>());
    let services = arguments.next().and_then(Result::ok).unwrap_or(10_000);
    let endpoints = arguments.next().and_then(Result::ok).unwrap_or(10);
    let external = arguments.next().and_then(Result::ok).unwrap_or(0) > 0;
    let context = NodeContext::default();

    let objects: Vec<Object> = (0..services).map(|n| service(n, external)).collect();
    let slices: Vec<Object> = (0..services).map(|n| slice(n, endpoints, 0)).collect();
    let node = Object::Node(Node { name: "n1".into(), ..Node::default() });

    let mut index = Index::new("n1");
    let took = timed(|| {
        index.apply(Change::Replace(Kind::Node, vec![node]));
        index.apply(Change::Replace(Kind::Service, objects));
        index.apply(Change::Replace(Kind::EndpointSlice, slices));
    });
    println!("{services} Services x {endpoints} endpoints");
    println!("index           {took:>12.1?}   {}", memory());

    let mut tables = Tables::default();
    let dirty = index.take_dirty();
    let mut changed = None;
    let took = timed(|| changed = Some(tables.update(&index, &dirty, &context)));
    println!("full compile    {took:>12.1?}");
    let Some(changed) = changed else { return };

    let capacity = Capacity { frontends: 8 * services, ..Capacity::default() };
    let mut realized = RealizedState::with_capacity(ReadBack::default(), capacity);
    let mut plan = None;
    let took = timed(|| plan = Some(realized.plan(&tables, &changed)));
    let Some(plan) = plan else { return };
    println!(
        "full plan       {took:>12.1?}   {} rows, {} over capacity, {}",
        plan.rows(),
        plan.over_capacity.len(),
        memory()
    );

    let read_back = read_back(&plan.writes);
    let took = timed(|| realized.resync(read_back));
    println!("adopt maps      {took:>12.1?}");
    let mut rows = 0;
    let took = timed(|| rows = realized.plan(&tables, &changed).rows());
    println!("plan at restart {took:>12.1?}   {rows} rows");

    let rounds = 1000;
    let mut rows = 0;
    let took = timed(|| {
        for round in 0..rounds {
            let n = (round * 7919) % services.max(1);
            index.apply(Change::Apply(slice(n, endpoints, 1 + round / services.max(1))));
            let dirty = index.take_dirty();
            let changed = tables.update(&index, &dirty, &context);
            rows += realized.plan(&tables, &changed).rows();
        }
    });
    println!(
        "one change      {:>12.1?}   index, compile and plan; {:.1} rows",
        took / rounds,
        rows as f64 / f64::from(rounds)
    );
}

/// Resident memory of this process.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    format!("resident {}", line.unwrap_or("unknown").trim())
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn name(n: u32) -> ObjectName {
    ObjectName::new(format!("namespace-{}", n % 100), format!("service-{n}"))
}

fn service(n: u32, external: bool) -> Object {
    Object::Service(Service {
        name: name(n),
        cluster_ips: [IpAddr::from(Ipv4Addr::from(0x0a60_0001 + n))].into(),
        ports: Port::new(80)
            .map(|port| ServicePort {
                name: "http".into(),
                protocol: Protocol::Tcp,
                port,
                node_port: None,
            })
            .into_iter()
            .collect(),
        internal_traffic_policy: TrafficPolicy::Cluster,
        external: external.then(|| {
            Box::new(ExternalAccess {
                ips: [IpAddr::from(Ipv4Addr::from(0xc600_0001 + n))].into(),
                load_balancer_ips: [IpAddr::from(Ipv4Addr::from(0xcb00_0001 + n))].into(),
                ..ExternalAccess::default()
            })
        }),
        ..Service::default()
    })
}

/// A higher `generation` has more endpoints.
fn slice(n: u32, endpoints: u32, generation: u32) -> Object {
    let endpoint = |m: u32| Endpoint {
        address: IpAddr::from(Ipv4Addr::from(0x0b00_0000 + n * 16 + m)),
        ready: true,
        serving: true,
        terminating: false,
        node_name: Some(format!("n{}", m % 100).into()),
        hints: None,
        target: None,
    };
    let service = name(n);
    Object::EndpointSlice(EndpointSlice {
        invalid: None,
        trigger: None,
        name: ObjectName::new(service.namespace.clone(), format!("{}-abcde", service.name)),
        service: Some(service.name),
        hidden: false,
        address_type: AddressType::Ipv4,
        ports: Box::new([EndpointPort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: Port::new(8080),
        }]),
        endpoints: (0..endpoints + generation).map(endpoint).collect(),
    })
}

/// The maps after a plan for empty maps.
fn read_back(writes: &[Write]) -> ReadBack {
    let rows_of = |wanted: &'static TableSpec| {
        let mut rows = Rows { table: wanted, keys: Vec::new(), values: Vec::new() };
        for write in writes {
            if let Write::Put { table, keys, values, .. } = write
                && *table == wanted
            {
                rows.keys.extend(keys);
                rows.values.extend(values);
            }
        }
        rows
    };
    let mut read_back = ReadBack::from_rows(
        &rows_of(Frontends::SPEC),
        &rows_of(Services::SPEC),
        &rows_of(SourceRanges::SPEC),
        &rows_of(Backends::SPEC),
        &rows_of(Networks::SPEC),
    );
    read_back.add_slots(&rows_of(Slots::SPEC));
    read_back
}
