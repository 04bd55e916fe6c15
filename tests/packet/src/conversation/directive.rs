//! Lines between the steps: they write tables and check flows.
//!
//! ```text
//! address NAME ADDRESS                 service A:PORT/PROTO -> BACKEND:PORT ... | none | drop
//! remove-backend A:PORT/PROTO          reuse-backend-id A:PORT/PROTO B:PORT
//! snat-ports MIN-MAX                   no-masquerade
//! not-ready
//! age SECONDS                          evict PROTO A:PORT > B:PORT
//! flows N                              flow PROTO A:PORT > B:PORT => C:PORT > D:PORT
//! differ VARIABLE VARIABLE
//! ```

use sluice_abi::{NodeConfig, node_flags};

use super::notation::Variables;
use super::words::{Names, Words, number, protocol};
use crate::tables::{VipPort, tuple};
use crate::topology::{FAR_POD, SNAT_PORTS};
use crate::{Datapath, node_config};

/// What directives change besides the maps.
pub struct State {
    /// Addresses by name.
    pub names: Names,
    /// Captured ports and identifiers.
    pub variables: Variables,
    /// Range of ports for source translation.
    pub snat_ports: (u16, u16),
    services: u32,
}

impl Default for State {
    fn default() -> State {
        State {
            names: Names::default(),
            variables: Variables::default(),
            snat_ports: SNAT_PORTS,
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
        let mut backends = Vec::new();
        let mut drop = false;
        while !words.is_empty() {
            match words.next()? {
                "none" => {}
                "drop" => drop = true,
                backend => backends.push(self.names.endpoint(backend)?),
            }
        }
        if drop {
            datapath.local_service(self.services, vip, &[(FAR_POD, 8080)], &[]);
        } else {
            datapath.service(self.services, vip, &backends);
        }
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
