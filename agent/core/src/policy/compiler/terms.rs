//! Terms that become active or inactive, and the addresses of Nodes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::super::term::Term;
use super::Policies;
use crate::index::Index;
use crate::model::{IpBlock, Node};

impl Policies {
    /// A term became active or inactive.
    pub(super) fn term(&mut self, index: &Index, number: u32, active: bool) {
        let term = self.terms.registry.get(number).clone();
        if !term.is_of_addresses() {
            if term.is_of_unknown_pods() {
                self.networks.set_of_unknown_pods(number, active);
            }
            self.pods.term(index, number, &self.terms, active);
            return;
        }
        let ranges = match active {
            true => self.networks.add(number, blocks(index, &term), self.limits.networks),
            false => self.networks.remove(number),
        };
        self.pods.ranges(&ranges);
    }

    /// Adds the blocks that did not fit and do now, after terms became inactive. Returns whether there are such.
    pub(super) fn fit_blocks(&mut self, index: &Index) -> bool {
        let mut fits = false;
        for number in self.networks.refused().clone() {
            fits |= self.replace_blocks(index, number);
        }
        fits
    }

    /// Nodes changed: their addresses. Returns whether blocks changed.
    pub(super) fn nodes_changed(&mut self, index: &Index) -> bool {
        let mut changed = false;
        for number in self.terms.active().collect::<Vec<_>>() {
            let term = self.terms.registry.get(number);
            if matches!(**term, Term::Nodes(_))
                && blocks(index, term) != self.networks.of_term(number)
            {
                changed |= self.replace_blocks(index, number);
            }
        }
        changed
    }

    /// Removes the blocks of a term and adds its present ones. Returns whether any block was or is in
    /// force.
    fn replace_blocks(&mut self, index: &Index, number: u32) -> bool {
        let blocks = blocks(index, self.terms.registry.get(number));
        let former = self.networks.remove(number);
        let ranges = self.networks.add(number, blocks, self.limits.networks);
        self.pods.ranges(&former);
        self.pods.ranges(&ranges);
        !former.is_empty() || !ranges.is_empty()
    }
}

/// The blocks of a term of addresses.
fn blocks(index: &Index, term: &Term) -> Vec<IpBlock> {
    match term {
        Term::Block(block) => vec![block.clone()],
        Term::Nodes(selector) => {
            let addresses: BTreeSet<IpAddr> =
                index.nodes_with(selector).flat_map(Node::addresses).collect();
            let block = |address| IpBlock { cidr: IpNet::from(address), except: [].into() };
            addresses.into_iter().map(block).collect()
        }
        Term::Pods { .. } | Term::Unknown => Vec::new(),
    }
}
