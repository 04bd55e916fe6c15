//! UDP sockets that are connected to a backend that the address they were connected to does not lead to any more.
//!
//! ```text
//! UDP_SOCKETS --> FRONTENDS, BACKENDS, HOST_PORTS --> led to their backend: kept
//!                                                 --> others: closed in the background
//! ```
//! A socket keeps its backend by the rule of unconnected sockets and of flows: while the backend has its row, and
//! the frontend leads to the Service port in that row. Everything is read from the maps, so that an agent that
//! was killed after it wrote them leaves nothing to remember: the next one compares all sockets at its start.
//!
//! The programs own the entries. The one of a closed socket stays until its program closes or connects it.

use std::collections::{BTreeMap, BTreeSet};

use sluice_abi::{
    Backend, BackendRow, Frontend, FrontendKey, HostPortKey, UdpSocket, node_port_addr, proto,
};
use sluice_core::table::{self, Backends, Frontends, HostPorts, Table};
use zerocopy::IntoBytes;

use super::{NotReconciled, Reconciler};
use crate::conditions::Concern;
use crate::kernel::{ClosedSockets, Kernel, UdpSockets};
use crate::state::State;
use crate::state::conflict::bounded;

/// Comparisons after a change. A thread that was in connect(2) during the change has written its entry, and is
/// connected, at the next poll.
const COMPARISONS: u8 = 2;

/// Failures that the condition names.
const NAMED: usize = 10;

/// Closes the sockets, once the maps are written.
#[derive(Debug)]
pub struct ReconcileStaleSockets {
    /// Sockets are being closed.
    closing: bool,
    /// The result before, until they are.
    result: Result<(), NotReconciled>,
    /// Comparisons that are left.
    comparisons: u8,
}

impl Reconciler for ReconcileStaleSockets {
    fn concern(&self) -> Concern {
        Concern::StaleSockets
    }

    fn reconcile(
        &mut self,
        state: &mut State,
        kernel: &mut dyn Kernel,
    ) -> Result<(), NotReconciled> {
        if state.take_sockets_changed() {
            self.comparisons = COMPARISONS;
        }
        let result = self.compare_and_close(state, kernel);
        state.poll_sockets(self.closing || self.comparisons > 0);
        if !self.closing {
            self.result = result;
        }
        self.result.clone()
    }
}

impl Default for ReconcileStaleSockets {
    fn default() -> ReconcileStaleSockets {
        ReconcileStaleSockets { closing: false, result: Ok(()), comparisons: 0 }
    }
}

impl ReconcileStaleSockets {
    fn compare_and_close(
        &mut self,
        state: &State,
        kernel: &mut dyn Kernel,
    ) -> Result<(), NotReconciled> {
        if self.closing {
            self.take_result(kernel)?;
            if self.closing || self.comparisons == 0 {
                return Ok(());
            }
        }
        // Rows of a write that failed can differ from each other, and former programs use former maps.
        let has_failed = |concern| state.conditions.failed(concern).is_some();
        let is_written = state.tables_written()
            && ![Concern::ServiceMaps, Concern::HostPorts].into_iter().any(has_failed);
        if !is_written || !state.may_attach() {
            return Err(NotReconciled::Waiting("the maps have not been written"));
        }
        let stale = stale(kernel)?;
        if !stale.is_empty() {
            let pods = kernel.leases()?;
            kernel.close_udp_sockets(&stale, &pods)?;
            self.closing = true;
        }
        self.comparisons = self.comparisons.saturating_sub(1);
        if self.closing { self.take_result(kernel) } else { Ok(()) }
    }

    fn take_result(&mut self, kernel: &mut dyn Kernel) -> Result<(), NotReconciled> {
        let Some(closed) = kernel.closed_udp_sockets() else { return Ok(()) };
        self.closing = false;
        let ClosedSockets { sockets, unsupported, failures } = closed;
        if sockets > 0 {
            tracing::info!(sockets, "UDP sockets of removed backends closed");
        }
        if !failures.is_empty() {
            let count = failures.len();
            return Err(NotReconciled::Failed(bounded(failures.into_iter(), count, NAMED, "; ")));
        }
        if unsupported > 0 {
            return Err(NotReconciled::Degraded(format!(
                "this kernel cannot close sockets: {unsupported} connected UDP sockets stay with backends that \
                 their Services do not lead to any more; restart their programs, or use a kernel with \
                 CONFIG_INET_DIAG_DESTROY"
            )));
        }
        Ok(())
    }
}

/// The sockets whose frontend does not lead to their backend.
fn stale(kernel: &mut dyn Kernel) -> Result<UdpSockets, NotReconciled> {
    let mut sockets: UdpSockets =
        kernel.read(table::UdpSockets::SPEC)?.typed::<table::UdpSockets>().collect();
    if sockets.is_empty() {
        return Ok(sockets);
    }
    let keys: BTreeSet<FrontendKey> = sockets.values().flat_map(keys).collect();
    let backends = sockets.values().map(|socket| socket.backend_id).collect();
    let paths = Paths {
        backends: rows::<Backends>(kernel, backends)?,
        host_ports: rows::<HostPorts>(kernel, keys.clone())?,
        frontends: rows::<Frontends>(kernel, keys)?,
    };
    sockets.retain(|_, socket| !paths.lead_to_backend(socket));
    Ok(sockets)
}

fn rows<T: Table>(
    kernel: &mut dyn Kernel,
    keys: BTreeSet<T::Key>,
) -> Result<BTreeMap<T::Key, T::Value>, NotReconciled> {
    let packed: Vec<u8> = keys.iter().flat_map(|key| key.as_bytes()).copied().collect();
    Ok(kernel.read_keys(T::SPEC, &packed)?.typed::<T>().collect())
}

/// The keys that the socket programs search for an address, in their order but for hostPorts, which are searched
/// in the reverse order.
fn keys(socket: &UdpSocket) -> [FrontendKey; 2] {
    [socket.frontend, node_port_addr(socket.frontend.family())].map(|addr| FrontendKey {
        addr,
        port: socket.frontend_port,
        proto: proto::UDP,
        pad: 0,
    })
}

/// The rows that sockets were translated by, as they are now.
struct Paths {
    frontends: BTreeMap<FrontendKey, Frontend>,
    backends: BTreeMap<u32, BackendRow>,
    host_ports: BTreeMap<HostPortKey, Backend>,
}

impl Paths {
    /// Whether the frontend of a socket still leads to its backend. NodePorts precede hostPorts.
    fn lead_to_backend(&self, socket: &UdpSocket) -> bool {
        let keys = keys(socket);
        let is_backend = |backend: &Backend| {
            (backend.addr, backend.port) == (socket.backend, socket.backend_port)
        };
        match keys.iter().find_map(|key| self.frontends.get(key)) {
            Some(frontend) => self.backends.get(&socket.backend_id).is_some_and(|row| {
                is_backend(&row.backend()) && [0, frontend.service].contains(&row.service)
            }),
            None => {
                keys.iter().rev().find_map(|key| self.host_ports.get(key)).is_some_and(is_backend)
            }
        }
    }
}
