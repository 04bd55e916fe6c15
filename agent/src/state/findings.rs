//! Problems of single objects that the loop reports after each pass.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use sluice_abi::FrontendKey;
use sluice_core::model::{EndpointSlice, Kind, Object};
use sluice_core::{Change, ObjectName};

use super::{State, conflict};
use crate::findings::{Finding, Reason};

/// Most findings of one pass. Those beyond are found again when their objects change.
const MAX: usize = 1024;

impl State {
    /// Adds a problem of an object.
    pub fn report(&mut self, finding: Finding) {
        if self.findings.len() < MAX {
            self.findings.push(finding);
        }
    }

    /// Problems of objects since the last call.
    pub fn take_findings(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.findings)
    }

    /// Adds the EndpointSlices in a change that have addresses which cannot be used.
    pub(super) fn report_invalid_addresses(&mut self, change: &Change) {
        match change {
            Change::Apply(Object::EndpointSlice(slice)) => self.report_invalid_address(slice),
            Change::Replace(Kind::EndpointSlice, objects) => {
                for object in objects {
                    if let Object::EndpointSlice(slice) = object {
                        self.report_invalid_address(slice);
                    }
                }
            }
            _ => {}
        }
    }

    fn report_invalid_address(&mut self, slice: &EndpointSlice) {
        if let Some(address) = slice.invalid.as_deref().filter(|_| !slice.hidden) {
            let message = format!(
                "endpoint {address} is ignored: it is not an address of another host or pod"
            );
            let (slice, reason) = (slice.name.clone(), Reason::InvalidEndpointAddress);
            self.report(Finding::without_uid(Kind::EndpointSlice, slice, reason, message));
        }
    }

    /// Adds a Service whose external address is in a pod range.
    pub(super) fn report_among_pods(&mut self, service: &ObjectName, found: (IpAddr, IpNet)) {
        let (address, range) = found;
        let message = format!(
            "external address {address} is not served: it is in the pod range {range}, and packets to it \
             go to the pod that has it"
        );
        self.report(Finding::service(service, Reason::AddressInPodRange, message));
    }

    /// Adds the Services that are not served at a key: the first of them, and those of `changed`.
    pub(super) fn report_conflict(&mut self, key: &FrontendKey, changed: &BTreeSet<ObjectName>) {
        let Some(conflict) = self.tables.conflict(key) else { return };
        let mut services = conflict.services();
        let Some(winner) = services.next() else { return };
        let losers = services.take(MAX).enumerate();
        let losers: Vec<ObjectName> = losers
            .filter(|(at, service)| *at == 0 || changed.contains(*service))
            .map(|(_, service)| service.clone())
            .collect();
        let frontend = conflict::frontend(key);
        let message = format!("{frontend} is used by Service {winner}, which has precedence");
        for loser in &losers {
            self.report(Finding::service(loser, Reason::AddressInUse, message.clone()));
        }
    }
}
