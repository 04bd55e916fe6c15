//! What the API reads of the agent's state.

use std::collections::BTreeMap;

use sluice_abi::FrontendKey;
use sluice_core::compile::FrontendRow;
use sluice_core::dump;
use sluice_core::tables::Conflict;

use crate::api::{StateView, Status};
use crate::dataplane::counters;
use crate::node::Node;

impl StateView for Node {
    fn status(&self) -> Status {
        let uplink = self.uplink();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.config().node_name.clone(),
            source: self.config().source.to_string(),
            ready: self.parts().health.ready(),
            synced: self.synced(),
            uplink: uplink.map(|u| u.link.name.clone()),
            address: uplink.and_then(|u| u.v4.or(u.v6)),
            mtu: self.mtu(),
            pod_cidrs: self.pod_cidrs(),
            tables: self
                .rows()
                .into_iter()
                .map(|(t, n)| (t.to_owned(), n))
                .collect::<BTreeMap<_, _>>(),
            conditions: self.conditions(),
            counters: counters::read(&self.parts().maps.counters).unwrap_or_default(),
        }
    }

    fn frontends(&self) -> impl Iterator<Item = (&FrontendKey, &FrontendRow)> {
        self.tables().frontends()
    }
}

/// A conflict in one line.
pub fn conflict(c: &Conflict) -> String {
    let losers: Vec<String> = c.losers.iter().map(ToString::to_string).collect();
    format!(
        "{} is used by Service {}, which is older; not programmed: {}",
        dump::key(&c.key),
        c.winner,
        losers.join(", ")
    )
}
