//! Times the pure work on a large cluster: `cargo run --release -p sluice-core --example scale`.
//!
//! Arguments: number of Services (10000), endpoints of each (10).
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

use std::env;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use sluice_core::index::Index;
use sluice_core::model::{
    AddressType, Change, Endpoint, EndpointPort, EndpointSlice, Hints, Kind, Node, Object,
    ObjectName, Port, Protocol, Service, ServicePort, TrafficPolicy,
};
use sluice_core::{Op, Programmed, ReadBack, Surroundings, Tables};

fn main() {
    let mut arguments = env::args().skip(1).map(|a| a.parse::<u32>());
    let services = arguments.next().and_then(Result::ok).unwrap_or(10_000);
    let endpoints = arguments.next().and_then(Result::ok).unwrap_or(10);
    let surroundings = Surroundings::default();

    let objects: Vec<Object> = (0..services).map(service).collect();
    let slices: Vec<Object> = (0..services).map(|n| slice(n, endpoints, 0)).collect();
    let node = Object::Node(Node { name: "n1".into(), ..Node::default() });

    let mut index = Index::new("n1");
    let took = timed(|| {
        index.apply(Change::Replace(Kind::Node, vec![node]));
        index.apply(Change::Replace(Kind::Service, objects));
        index.apply(Change::Replace(Kind::EndpointSlice, slices));
    });
    println!("{services} Services x {endpoints} endpoints");
    println!("index           {took:>12.1?}");

    let mut tables = Tables::default();
    let dirty = index.take_dirty();
    let mut changed = None;
    let took = timed(|| changed = Some(tables.update(&index, &dirty, &surroundings)));
    println!("full compile    {took:>12.1?}");
    let Some(changed) = changed else { return };

    let mut programmed = Programmed::new(ReadBack::default());
    let mut plan = None;
    let took = timed(|| plan = Some(programmed.plan(&tables, &changed)));
    let Some(plan) = plan else { return };
    println!(
        "full plan       {took:>12.1?}   {} ops, {} refused",
        plan.ops.len(),
        plan.refused.len()
    );

    let read_back = read_back(&plan.ops);
    let took = timed(|| programmed.resync(read_back));
    println!("take maps over  {took:>12.1?}");
    let mut ops = 0;
    let took = timed(|| ops = programmed.plan(&tables, &changed).ops.len());
    println!("restart's plan  {took:>12.1?}   {ops} ops");

    let rounds = 1000;
    let mut ops = 0;
    let took = timed(|| {
        for round in 0..rounds {
            let n = (round * 7919) % services.max(1);
            index.apply(Change::Apply(slice(n, endpoints, 1 + round / services.max(1))));
            let dirty = index.take_dirty();
            let changed = tables.update(&index, &dirty, &surroundings);
            ops += programmed.plan(&tables, &changed).ops.len();
        }
    });
    println!(
        "one change      {:>12.1?}   index, compile and plan; {:.1} ops",
        took / rounds,
        ops as f64 / f64::from(rounds)
    );
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn name(n: u32) -> ObjectName {
    ObjectName::new(format!("namespace-{}", n % 100), format!("service-{n}"))
}

fn service(n: u32) -> Object {
    Object::Service(Service {
        name: name(n),
        cluster_ips: vec![IpAddr::from(Ipv4Addr::from(0x0a60_0001 + n))],
        ports: Port::new(80)
            .map(|port| ServicePort { name: "http".into(), protocol: Protocol::Tcp, port })
            .into_iter()
            .collect(),
        internal_traffic_policy: TrafficPolicy::Cluster,
        ..Service::default()
    })
}

/// Another `generation` has one endpoint more.
fn slice(n: u32, endpoints: u32, generation: u32) -> Object {
    let endpoint = |m: u32| Endpoint {
        address: IpAddr::from(Ipv4Addr::from(0x0b00_0000 + n * 16 + m)),
        ready: true,
        serving: true,
        terminating: false,
        node_name: Some(format!("n{}", m % 100)),
        hints: Hints::default(),
    };
    let service = name(n);
    Object::EndpointSlice(EndpointSlice {
        name: ObjectName::new(&service.namespace, format!("{}-abcde", service.name)),
        service: Some(service.name),
        hidden: false,
        address_type: AddressType::Ipv4,
        ports: vec![EndpointPort {
            name: Some("http".into()),
            protocol: Protocol::Tcp,
            port: Port::new(8080),
        }],
        endpoints: (0..endpoints + generation).map(endpoint).collect(),
    })
}

/// The maps after a plan on empty ones.
fn read_back(ops: &[Op]) -> ReadBack {
    let mut read_back = ReadBack::default();
    let mut slots = Vec::new();
    for op in ops {
        match op {
            Op::PutFrontend(key, value) => read_back.frontends.push((*key, *value)),
            Op::PutBackend(id, backend) => read_back.backends.push((*id, *backend)),
            Op::PutNetwork(key, value) => read_back.networks.push((*key, *value)),
            Op::WriteSlots { offset, ids } => {
                let start = *offset as usize;
                slots.resize(slots.len().max(start + ids.len()), 0);
                slots[start..start + ids.len()].copy_from_slice(ids);
            }
            _ => {}
        }
    }
    for run in read_back.runs(u32::MAX) {
        let start = run.offset as usize;
        read_back.slots.insert(run, slots[start..start + run.len as usize].to_vec());
    }
    read_back
}
