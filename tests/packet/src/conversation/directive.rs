//! Lines between the steps: they write tables and check flows.
//!
//! ```text
//! address NAME ADDRESS
//! service A:PORT/PROTO -> BACKEND:PORT ... | none  [drop] [local BACKEND:PORT ... | none] [affinity SECONDS]
//!     a ClusterIP with its Cluster set; drop: its traffic policy is Local; local: the Local set
//! endpoints A:PORT/PROTO -> ...        other sets of the same Service port
//! external A:PORT/PROTO = A:PORT/PROTO [local] [limited]
//! external-wildcard A
//! host-port A:PORT/PROTO -> POD:PORT
//! node-port PORT/PROTO = A:PORT/PROTO [local]                no-node-ports A
//!     frontends of the Service port with that ClusterIP; local: its traffic policy
//! source-range A:PORT/PROTO NETWORK/LEN
//! remove-backend A:PORT/PROTO          reuse-backend-id A:PORT/PROTO B:PORT
//! snat-ports MIN-MAX                   no-masquerade
//! not-ready
//! age SECONDS                          age-affinity SECONDS
//! evict PROTO A:PORT > B:PORT
//! flows N                              flow PROTO A:PORT > B:PORT => C:PORT > D:PORT
//! differ VARIABLE VARIABLE
//! ```

use std::collections::BTreeMap;

use sluice_abi::{Frontend, NodeConfig, frontend_flags, network_kind, node_flags};

use super::notation::Variables;
use super::words::{Names, Words, number, protocol};
use crate::tables::{VipPort, tuple};
use crate::topology::SNAT_PORTS;
use crate::{Datapath, Sets, node_config};

/// What directives change besides the maps.
pub struct State {
    /// Addresses by name.
    pub names: Names,
    /// Captured ports and identifiers.
    pub variables: Variables,
    /// Range of ports for source translation.
    pub snat_ports: (u16, u16),
    /// Service ports by ClusterIP.
    ports: BTreeMap<VipPort, u32>,
    services: u32,
}

impl Default for State {
    fn default() -> State {
        State {
            names: Names::default(),
            variables: Variables::default(),
            snat_ports: SNAT_PORTS,
            ports: BTreeMap::new(),
            services: 0,
        }
    }
}

impl State {
    /// `ADDRESS:PORT/PROTO`.
    fn vip(&self, text: &str) -> Result<VipPort, String> {
        let (endpoint, proto) = text.split_once('/').ok_or("no protocol")?;
        let (address, port) = self.names.endpoint(endpoint)?;
        Ok((address, port, protocol(proto)?))
    }

    /// `ADDRESS:PORT` with a number or a captured variable.
    fn end(&self, text: &str) -> Result<([u8; 4], u16), String> {
        match text.split_once(":{").and_then(|(a, v)| Some((a, v.strip_suffix('}')?))) {
            None => self.names.endpoint(text),
            Some((address, name)) => {
                let port = self.variables.get(name).ok_or_else(|| format!("no {{{name}}}"))?;
                Ok((self.names.address(address)?, *port))
            }
        }
    }

    fn tuple(&self, words: &mut Words<'_>) -> Result<[([u8; 4], u16); 2], String> {
        let source = self.end(words.next()?)?;
        words.expect(">")?;
        Ok([source, self.end(words.next()?)?])
    }

    fn service(&mut self, words: &mut Words<'_>, datapath: &Datapath) -> Result<(), String> {
        let vip = self.vip(words.next()?)?;
        words.expect("->")?;
        self.services += 1;
        self.ports.insert(vip, self.services);
        let (sets, flags) = self.sets(words)?;
        datapath.service_port(self.services, vip.2, &sets);
        datapath.frontend(vip, Frontend { service: self.services, flags });
        datapath.wildcard(vip.0);
        Ok(())
    }

    /// The sets of a Service port, and the flags of its ClusterIP.
    fn sets(&self, words: &mut Words<'_>) -> Result<(Sets, u32), String> {
        let mut sets = Sets::default();
        let (mut in_local_set, mut flags) = (false, 0);
        while !words.is_empty() {
            match words.next()? {
                "none" => {}
                "drop" => flags = frontend_flags::LOCAL,
                "local" => in_local_set = true,
                "affinity" => sets.affinity_seconds = number(words.next()?)?,
                backend if in_local_set => sets.local.push(self.names.endpoint(backend)?),
                backend => sets.cluster.push(self.names.endpoint(backend)?),
            }
        }
        Ok((sets, flags))
    }

    /// The Service port with this ClusterIP.
    fn port(&self, text: &str) -> Result<u32, String> {
        let vip = self.vip(text)?;
        self.ports.get(&vip).copied().ok_or_else(|| format!("no service {text}"))
    }

    /// A frontend besides the ClusterIP.
    fn external(
        &self,
        at: VipPort,
        words: &mut Words<'_>,
        datapath: &Datapath,
    ) -> Result<(), String> {
        words.expect("=")?;
        let service = self.port(words.next()?)?;
        let mut flags = frontend_flags::EXTERNAL;
        while !words.is_empty() {
            flags |= match words.next()? {
                "local" => frontend_flags::LOCAL,
                "limited" => frontend_flags::SOURCE_RANGES,
                other => return Err(format!("no property {other:?} of a frontend")),
            };
        }
        datapath.frontend(at, Frontend { service, flags });
        Ok(())
    }

    /// Carries out one line.
    pub fn directive(&mut self, line: &str, datapath: &Datapath) -> Result<(), String> {
        let mut words = Words::new(line);
        match words.next()? {
            "address" => {
                let name = words.next()?;
                let address = self.names.address(words.next()?)?;
                self.names.insert(name, address);
            }
            "service" => self.service(&mut words, datapath)?,
            "endpoints" => {
                let text = words.next()?;
                let (service, vip) = (self.port(text)?, self.vip(text)?);
                words.expect("->")?;
                datapath.service_port(service, vip.2, &self.sets(&mut words)?.0);
            }
            "external" => {
                let at = self.vip(words.next()?)?;
                self.external(at, &mut words, datapath)?;
            }
            "node-port" => {
                let (port, proto) = words.next()?.split_once('/').ok_or("no protocol")?;
                let at = ([0; 4], number(port)?, protocol(proto)?);
                self.external(at, &mut words, datapath)?;
            }
            "host-port" => {
                let at = self.vip(words.next()?)?;
                words.expect("->")?;
                datapath.host_port(at, self.names.endpoint(words.next()?)?);
            }
            "external-wildcard" => {
                datapath.external_wildcard(self.names.address(words.next()?)?);
            }
            "no-node-ports" => {
                let address = self.names.address(words.next()?)?;
                datapath.network(address, 32, network_kind::THIS_NODE_WITHOUT_NODE_PORTS);
            }
            "source-range" => {
                let service = self.port(words.next()?)?;
                let (network, len) = words.next()?.split_once('/').ok_or("no prefix length")?;
                datapath.source_range(service, self.names.address(network)?, number(len)?);
            }
            "age-affinity" => datapath.age_affinity(number(words.next()?)?),
            "remove-backend" => datapath.remove_backend(self.vip(words.next()?)?),
            "reuse-backend-id" => {
                let old = self.vip(words.next()?)?;
                datapath.reuse_backend_id(old, self.names.endpoint(words.next()?)?);
            }
            "snat-ports" => {
                let (min, max) = words.next()?.split_once('-').ok_or("ports are MIN-MAX")?;
                self.snat_ports = (number(min)?, number(max)?);
                datapath.snat_ports(self.snat_ports.0, self.snat_ports.1);
            }
            "no-masquerade" => {
                datapath.node_config(&NodeConfig { flags: node_flags::READY, ..node_config() });
            }
            "not-ready" => datapath.node_config(&NodeConfig::default()),
            "age" => datapath.age_flows(number(words.next()?)?),
            "evict" => {
                let proto = protocol(words.next()?)?;
                let [source, destination] = self.tuple(&mut words)?;
                if !datapath.remove_entry(&tuple(proto, source, destination).sorted()) {
                    return Err(format!("no such entry among {:?}", datapath.flows()));
                }
            }
            "flows" => {
                let (expected, flows) = (number::<usize>(words.next()?)?, datapath.flows());
                if flows.len() != expected {
                    return Err(format!("{} flows: {flows:?}", flows.len()));
                }
            }
            "flow" => self.flow(&mut words, datapath)?,
            "differ" => {
                let (a, b) = (words.next()?, words.next()?);
                let value =
                    |name: &str| self.variables.get(name).ok_or_else(|| format!("no {name}"));
                if value(a)? == value(b)? {
                    return Err(format!("{a} and {b} are both {}", value(a)?));
                }
            }
            other => return Err(format!("no hook and no directive {other:?}")),
        }
        if words.is_empty() { Ok(()) } else { Err("the line is too long".to_owned()) }
    }

    fn flow(&self, words: &mut Words<'_>, datapath: &Datapath) -> Result<(), String> {
        let proto = protocol(words.next()?)?;
        let [source, destination] = self.tuple(words)?;
        words.expect("=>")?;
        let [new_source, new_destination] = self.tuple(words)?;
        let from = tuple(proto, source, destination);
        let to = tuple(proto, new_source, new_destination);
        // Packets of the flow find it by the entry of their tuple.
        let found = datapath.entry(&from.sorted()).and_then(|_| datapath.translation(&from));
        match found {
            None => Err(format!("no such flow among {:?}", datapath.flows())),
            Some(found) if found == to => Ok(()),
            Some(found) => Err(format!("translated to {found:?}")),
        }
    }
}
