//! State of the agent -> rows of a response. Pure: reads a [`StateView`] and changes nothing.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;
use sluice_abi::FrontendKey;
use sluice_core::compile::{PortRow, Treatment};
use sluice_core::tables::FrontendView;
use sluice_core::{ObjectName, dump};
use tokio::sync::oneshot;

use super::drops::{DropRow, DropsEnd};
use super::policy::{
    AnyPolicy, FlowPolicyRow, PodPolicyRow, PolicyFilter, PolicyRow, PolicyView, Translation,
    full_name,
};
use super::request::{Request, ServiceFilter};
use super::response::{ServiceAction, ServiceRow, Status};

/// Table entries (frontends and their backends) after which a page ends, whether or not they match
/// the filter: bounds the time that the event loop spends on it.
pub const PAGE: usize = 1024;

/// Most policies of a page: each costs a look at the pods of this node.
const POLICIES: usize = 32;

/// What the API reads of the agent's state.
pub trait StateView {
    /// State of the node.
    fn status(&self) -> Status;
    /// Desired frontends in the order of their keys.
    fn frontends(&self) -> impl Iterator<Item = (&FrontendKey, FrontendView<'_>)>;
    /// The dropped packets with this number and later ones, of those that are kept.
    fn drops(&self, from: u64) -> Vec<DropRow>;
    /// The end of a response of dropped packets.
    fn drops_end(&self) -> DropsEnd;
    /// Policies.
    fn policies(&self) -> PolicyView<'_>;
    /// Where packets of this node's pods to an address, port and protocol go instead, if they are translated.
    fn translate(&self, address: IpAddr, port: u16, protocol: u8) -> Option<Translation>;
}

/// A request for one page, on its way from the server to the owner of the state.
#[derive(Debug)]
pub struct Call {
    pub(super) request: Arc<Request>,
    pub(super) after: Option<Cursor>,
    pub(super) reply: oneshot::Sender<Page>,
}

/// Position in an ordered table: the last row that was examined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// Of the frontends.
    Frontend(FrontendKey),
    /// Of the policies.
    Policy(ObjectName),
}

/// Part of a response.
#[derive(Debug, Default, PartialEq)]
pub struct Page {
    /// Rows that match the filter.
    pub rows: Vec<Row>,
    /// Position of the next page; `None` after the last one.
    pub next: Option<Cursor>,
    /// Of dropped packets: [`StateView::drops_end`] at the time of the rows.
    pub drops: DropsEnd,
}

/// A row of any response.
#[derive(Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Row {
    /// Response to [`Request::Status`].
    Status(Box<Status>),
    /// Response to [`Request::Services`].
    Service(ServiceRow),
    /// Response to [`Request::Policies`].
    Policy(Box<PolicyRow>),
    /// Response to [`Request::Drops`].
    Drop(Box<DropRow>),
    /// Response to [`Request::ExplainPod`].
    Pod(Box<PodPolicyRow>),
    /// Response to [`Request::JudgeFlow`].
    Flow(Box<FlowPolicyRow>),
}

impl Page {
    /// A response of one row.
    fn of(row: Row) -> Page {
        Page { rows: vec![row], ..Page::default() }
    }
}

impl Call {
    /// Answers from `view`. The client may have disconnected; the page is discarded then.
    pub fn respond(self, view: &impl StateView) {
        let _ = self.reply.send(page(view, &self.request, self.after));
    }
}

impl From<Treatment<'_>> for ServiceAction {
    fn from(treatment: Treatment<'_>) -> ServiceAction {
        match treatment {
            Treatment::Forward(_) => ServiceAction::Forward,
            Treatment::Drop => ServiceAction::Drop,
            Treatment::Reject => ServiceAction::Reject,
        }
    }
}

/// The page of the response to `request` that follows `after`.
pub fn page(view: &impl StateView, request: &Request, after: Option<Cursor>) -> Page {
    match request {
        Request::Status {} => Page::of(Row::Status(Box::new(view.status()))),
        Request::Services(filter) => services(view.frontends(), filter, after),
        Request::Policies(filter) => policies(view.policies(), filter, after),
        Request::Drops { from } => {
            let rows = view.drops(*from).into_iter().map(|row| Row::Drop(Box::new(row)));
            Page { rows: rows.collect(), next: None, drops: view.drops_end() }
        }
        Request::ExplainPod(query) => {
            let translate = |address, port, protocol| view.translate(address, port, protocol);
            Page::of(Row::Pod(Box::new(view.policies().pod(query, &translate))))
        }
        Request::JudgeFlow(flow) => Page::of(Row::Flow(Box::new(view.policies().flow(flow)))),
    }
}

/// The frontends after `after`, up to [`PAGE`] entries, of which those that match `filter` become
/// rows. Wildcard frontends are not listed.
pub fn services<'a>(
    frontends: impl Iterator<Item = (&'a FrontendKey, FrontendView<'a>)>,
    filter: &ServiceFilter,
    after: Option<Cursor>,
) -> Page {
    let mut page = Page::default();
    let last = match after {
        Some(Cursor::Frontend(last)) => Some(last),
        _ => None,
    };
    let mut rest = frontends.skip_while(|(key, _)| last.is_some_and(|last| **key <= last));
    let mut examined = 0;
    while let Some((key, frontend)) = rest.next() {
        examined += 1;
        if let Some(port) = frontend.port {
            let row = service_row(key, &frontend, port);
            examined += row.backends.len();
            page.rows.extend(filter.matches(&row).then_some(Row::Service(row)));
        }
        if examined >= PAGE {
            page.next = rest.next().map(|_| Cursor::Frontend(*key));
            break;
        }
    }
    page
}

/// The policies after `after`, up to [`POLICIES`] that match `filter`.
fn policies(view: PolicyView<'_>, filter: &PolicyFilter, after: Option<Cursor>) -> Page {
    let last = match after {
        Some(Cursor::Policy(last)) => Some(last),
        _ => None,
    };
    let is_next = |name: &ObjectName| last.as_ref().is_none_or(|last| name > last);
    let named = AnyPolicy::all(view.index).map(|policy| (policy.name(), policy));
    let pod = filter.pod.as_deref().map(|name| view.index.pod(&full_name(name)));
    let selects = |policy: &AnyPolicy<'_>| match pod {
        None => true,
        Some(pod) => pod.is_some_and(|pod| policy.selects(view.index, pod)),
    };
    let mut matching =
        named.filter(|(name, policy)| is_next(name) && filter.matches(name) && selects(policy));
    let mut page = Page::default();
    while let Some((name, policy)) = matching.next() {
        let row = view.policy(policy, filter.name.is_some());
        page.rows.push(Row::Policy(Box::new(row)));
        if page.rows.len() == POLICIES {
            page.next = matching.next().map(|_| Cursor::Policy(name));
            break;
        }
    }
    page
}

/// Where a frontend leads.
pub fn translation(frontend: &FrontendView<'_>) -> Translation {
    let by = format!("Service {} ({})", frontend.service, frontend.row.kind);
    let none = |problem: &str| (Vec::new(), Some(problem.to_owned()));
    let (endpoints, problem) = match frontend.treatment(true) {
        Treatment::Forward(backends) => {
            (backends.iter().map(|b| (b.addr.into(), b.port.get())).collect(), None)
        }
        Treatment::Reject if frontend.port.is_none() => {
            none("the Service does not have this port and protocol")
        }
        Treatment::Reject => none("no endpoint is ready: connections are rejected"),
        Treatment::Drop => none("no endpoint is ready on this node: packets are dropped"),
    };
    Translation { by, endpoints, problem }
}

fn service_row(key: &FrontendKey, frontend: &FrontendView<'_>, port: &PortRow) -> ServiceRow {
    let treatment = frontend.treatment(false);
    let backends = if let Treatment::Forward(backends) = treatment { backends } else { &[] };
    ServiceRow {
        service: frontend.service.to_string(),
        port_name: port.id.name.to_string(),
        kind: frontend.row.kind.to_string(),
        policy: frontend.row.policy.to_string(),
        address: IpAddr::from(key.addr),
        port: key.port.get(),
        protocol: dump::protocol(key.proto),
        action: treatment.into(),
        backends: backends.iter().map(|b| dump::socket_address(b.addr, b.port)).collect(),
        source_ranges: if frontend.row.limited { port.source_ranges.to_vec() } else { vec![] },
    }
}

#[cfg(test)]
mod tests {
    use sluice_abi::proto;

    use super::*;
    use crate::api::fake::{Fake, ROWS};

    #[test]
    fn page_is_bounded_by_the_entries_that_it_examines() {
        let fake = Fake::with_services("shop", 2 * ROWS as u32);
        let none = ServiceFilter { text: Some("nothing".into()), ..ServiceFilter::default() };
        let first = page(&fake, &Request::Services(none.clone()), None);
        assert_eq!(first.rows, []);
        assert!(first.next.is_some());
        let second = page(&fake, &Request::Services(none), first.next);
        assert_eq!(
            (second.rows.len(), second.next),
            (0, None),
            "a full last page has no successor"
        );

        let all = Request::Services(ServiceFilter::default());
        let first = page(&fake, &all, None);
        let second = page(&fake, &all, first.next);
        assert_eq!((first.rows.len(), second.rows.len()), (ROWS, ROWS));
        let Row::Service(row) = &second.rows[0] else { panic!("{:?}", second.rows[0]) };
        assert_eq!(row.service, format!("shop/s-{ROWS}"));
    }

    #[test]
    fn backends_count_as_entries_of_a_page() {
        let mut fake = Fake::default();
        for n in 0..4 {
            fake.add("shop", n, proto::TCP, PAGE as u16 / 2);
        }
        let first = page(&fake, &Request::Services(ServiceFilter::default()), None);
        assert_eq!(first.rows.len(), 2);
    }

    #[test]
    fn page_continues_after_a_removed_row() {
        let mut fake = Fake::with_services("shop", ROWS as u32 + 2);
        let all = Request::Services(ServiceFilter::default());
        let first = page(&fake, &all, None);
        let last = *fake.frontends.keys().nth(ROWS - 1).unwrap();
        fake.frontends.remove(&last);
        assert_eq!(page(&fake, &all, first.next).rows.len(), 2);
    }
}
