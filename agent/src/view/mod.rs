//! What the API reads of the agent's state.

mod drops;
mod translation;

use std::cell::RefCell;
use std::net::IpAddr;

use sluice_abi::FrontendKey;
use sluice_core::tables::FrontendView;
use sluice_pod::device::LinkLayer;

use crate::api::{self, StateView};
use crate::counters::Count;
use crate::devices::Role;
use crate::devices::xdp::XdpState;
use crate::kernel::Maps;
use crate::state::State;
use crate::version;
use crate::watches::Watches;

/// The devices that routes use.
fn devices(state: &State) -> Vec<api::DeviceRow> {
    let used = state.devices().iter().filter(|device| device.role != Role::Unused);
    used.map(|device| {
        let programs = match device.role {
            Role::Managed if !state.attached().contains(&device.link.index) => "missing",
            Role::Managed if device.link.layer == LinkLayer::Ip => "ip",
            Role::Managed => "ethernet",
            Role::Unmanaged | Role::Unused => "none",
        };
        api::DeviceRow {
            name: device.link.name.clone(),
            programs: programs.to_owned(),
            xdp: state.xdp(device.link.index).map(XdpState::describe),
            address: device.address.filter(|_| device.is_managed()),
            mtu: device.link.mtu,
        }
    })
    .collect()
}

/// The state together with the counters of the kernel, which are read on request only.
pub struct View<'a, K> {
    /// The state.
    pub state: &'a State,
    /// Source of the counters.
    pub kernel: RefCell<&'a mut K>,
    /// State of the watches.
    pub watches: &'a Watches,
    /// Events of dropped packets that were not examined.
    pub lost: u64,
}

impl<K: Maps> View<'_, K> {
    /// The agent's own counter, and those of the programs, if they can be read.
    fn counters(&self) -> Vec<Count> {
        let mut counters = self.kernel.borrow_mut().counters().unwrap_or_default();
        counters.push(Count::not_examined(self.lost));
        counters
    }
}

impl<K: Maps> StateView for View<'_, K> {
    fn status(&self) -> api::Status {
        let state = self.state;
        let uplink = state.uplink();
        let condition = |c: &crate::conditions::Condition| api::Condition {
            kind: c.concern.to_string(),
            status: c.status.to_string(),
            seconds: c.since.elapsed().as_secs(),
            message: c.message.clone(),
        };
        api::Status {
            version: version::VERSION.to_owned(),
            revision: version::REVISION.to_owned(),
            node: state.config().node_name.clone(),
            source: state.config().source.to_string(),
            ready: state.ready(),
            synced: state.synced(),
            uplink: uplink.map(|u| u.link.name.clone()),
            address: uplink.and_then(|u| u.v4.or(u.v6)),
            mtu: state.pod_mtu(),
            devices: devices(state),
            pod_cidrs: state.pod_cidrs(),
            tables: state.rows().into_iter().map(|(t, n)| (t.to_owned(), n)).collect(),
            capacity: state.capacity().growing().map(|(t, n)| (t.to_owned(), n)).collect(),
            conditions: state.conditions.iter().map(condition).collect(),
            policies: state.policy_mistakes(),
            watches: self.watches.report(),
            counters: self.counters(),
        }
    }

    fn frontends(&self) -> impl Iterator<Item = (&FrontendKey, FrontendView<'_>)> {
        self.state.tables().frontends()
    }

    fn drops(&self, from: u64) -> Vec<api::DropRow> {
        self.state.drops_from(from).map(api::DropRow::from).collect()
    }

    fn drops_end(&self) -> api::DropsEnd {
        api::DropsEnd {
            first_sequence: self.state.first_drop(),
            lost_events: Count::lost_events(self.counters()),
        }
    }

    fn policies(&self) -> api::PolicyView<'_> {
        api::PolicyView {
            index: self.state.index(),
            compiled: self.state.policies(),
            local: self.state.policy_pods(),
            findings: self.state.policy_findings(),
            node: self.state.this_node(),
        }
    }

    fn translate(&self, address: IpAddr, port: u16, protocol: u8) -> Option<api::Translation> {
        let mut kernel = self.kernel.borrow_mut();
        translation::find(self.state, &mut **kernel, address, port, protocol)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use sluice_abi::DropEvent;

    use super::*;
    use crate::event::{DroppedPacket, Event};
    use crate::harness::{Harness, host};
    use crate::kernel::fake::FakeKernel;

    #[tokio::test(start_paused = true)]
    async fn response_of_drops_ends_with_the_number_of_the_first_one() {
        let mut harness = Harness::new();
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500);
        let dropped = DroppedPacket { at, event: DropEvent::default() };
        harness.send([Event::Drops(vec![dropped; 2])]).await;
        let mut kernel = FakeKernel::new(host());
        let (kernel, watches) = (RefCell::new(&mut kernel), &Watches::default());
        let view = View { state: harness.state(), kernel, watches, lost: 0 };
        assert_eq!(view.drops_end().first_sequence, Some(1500));
        assert_eq!(view.drops(1501).len(), 1);
    }

    #[test]
    fn status_and_lost_events_have_those_that_were_not_examined() {
        let (state, mut kernel) = (Harness::idle_state(), FakeKernel::new(host()));
        let (kernel, watches) = (RefCell::new(&mut kernel), &Watches::default());
        let view = View { state: &state, kernel, watches, lost: 3 };
        assert!(view.status().counters.contains(&Count::not_examined(3)));
        let of = |count: (&str, u64)| (count.0.to_owned(), count.1);
        assert_eq!(
            view.drops_end().lost_events,
            [("not_examined", 3), ("rate_limit", 5)].map(of).into()
        );
        // Its number is not known, which is not 0.
        view.kernel.borrow_mut().fail("read COUNTERS", 1, libc::EIO);
        assert_eq!(view.drops_end().lost_events, [("not_examined", 3)].map(of).into());
    }
}
