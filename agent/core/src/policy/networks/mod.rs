//! Peers by address: blocks, their exceptions, and the pod ranges of the nodes.
//!
//! Every range that begins or ends a block is a prefix with a class of its own, so that the longest
//! prefix of an address decides which blocks contain it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::model::IpBlock;
use crate::visits::visit;

/// Values by range, with a search for the ranges around another one.
#[derive(Clone, Debug)]
struct ByRange<V> {
    values: BTreeMap<IpNet, V>,
    /// Number of ranges by length, IPv4 and IPv6.
    lengths: [BTreeMap<u8, u32>; 2],
}

impl<V> Default for ByRange<V> {
    fn default() -> ByRange<V> {
        ByRange { values: BTreeMap::new(), lengths: Default::default() }
    }
}

impl<V: Default> ByRange<V> {
    fn entry(&mut self, net: IpNet) -> &mut V {
        let lengths = &mut self.lengths[usize::from(net.addr().is_ipv6())];
        self.values.entry(net).or_insert_with(|| {
            *lengths.entry(net.prefix_len()).or_default() += 1;
            V::default()
        })
    }

    fn remove(&mut self, net: IpNet) {
        let lengths = &mut self.lengths[usize::from(net.addr().is_ipv6())];
        if self.values.remove(&net).is_some()
            && let Some(count) = lengths.get_mut(&net.prefix_len())
        {
            *count -= 1;
            if *count == 0 {
                lengths.remove(&net.prefix_len());
            }
        }
    }

    /// The ranges that contain `net`, itself included; the shortest first.
    fn around(&self, net: IpNet) -> impl DoubleEndedIterator<Item = (IpNet, &V)> {
        let lengths = self.lengths[usize::from(net.addr().is_ipv6())].keys();
        let up_to = lengths.take_while(move |length| **length <= net.prefix_len());
        let around: Vec<IpNet> = up_to
            .filter_map(|length| IpNet::new(net.addr(), *length).ok().map(|net| net.trunc()))
            .collect();
        around.into_iter().filter_map(|net| Some((net, self.values.get(&net)?)))
    }

    /// The ranges inside `net`, itself included.
    fn inside(&self, net: IpNet) -> impl Iterator<Item = IpNet> {
        let first = IpNet::new(net.network(), 0).unwrap_or(net);
        let last = IpNet::from(net.broadcast());
        let near = self.values.range(first..=last).map(|(net, _)| *net);
        near.filter(move |other| net.contains(other))
    }
}

/// The prefix of all IPv4 addresses, which a short IPv6 prefix would contain in the map.
const ALL_V4: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));

/// Whether an IPv6 range contains the IPv4 addresses in the form that they have in the map.
fn contains_v4(net: IpNet) -> bool {
    let mapped = Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);
    matches!(net, IpNet::V6(net) if net.contains(&mapped))
}

/// Prefixes and what they match.
#[derive(Clone, Debug, Default)]
pub struct Networks {
    /// Active blocks.
    blocks: ByRange<Vec<(u32, Box<[IpNet]>)>>,
    /// Pod ranges of the nodes.
    ranges: ByRange<u32>,
    /// Blocks of each active term.
    of_term: BTreeMap<u32, Vec<IpBlock>>,
    /// The active terms that match unknown pods.
    of_unknown_pods: BTreeSet<u32>,
    /// Number of reasons for each prefix.
    prefixes: ByRange<u32>,
    /// Prefixes whose class may be another one.
    dirty: BTreeSet<IpNet>,
    /// Terms whose blocks do not fit: they match nothing.
    refused: BTreeSet<u32>,
    /// Sum of the numbers of blocks of all prefixes: the square of the number of blocks that differ by exceptions only.
    memberships: usize,
}

/// Exceptions of one block, at most: they are compared with each prefix inside the block.
const EXCEPTIONS: usize = 4096;

/// How much may be in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkLimits {
    /// Number of prefixes.
    pub prefixes: usize,
    /// Sum of the numbers of blocks of all prefixes.
    pub memberships: usize,
}

impl Networks {
    /// Adds the blocks of an active term, unless more would be in force than `limits`. Returns the ranges
    /// whose addresses may match something else.
    pub fn add(&mut self, term: u32, blocks: Vec<IpBlock>, limits: NetworkLimits) -> Vec<IpNet> {
        visit();
        let new: usize = blocks.iter().map(prefixes_of).sum();
        let fits = self.prefixes.values.len() + new <= limits.prefixes
            && blocks.iter().all(|block| block.except.len() <= EXCEPTIONS)
            && self.memberships + self.memberships_of(&blocks) <= limits.memberships;
        self.refused.extend((!fits).then_some(term));
        let ranges =
            if fits { blocks.iter().map(|block| block.cidr).collect() } else { Vec::new() };
        for IpBlock { cidr, except } in blocks.iter().filter(|_| fits) {
            self.blocks.entry(*cidr).push((term, except.clone()));
            self.memberships += self.touch(*cidr, except);
            self.add_prefix(*cidr);
            except.iter().for_each(|net| self.add_prefix(*net));
        }
        self.of_term.insert(term, blocks);
        ranges
    }

    /// Removes the blocks of a term. Returns the ranges whose addresses may match something else.
    pub fn remove(&mut self, term: u32) -> Vec<IpNet> {
        let blocks = self.of_term.remove(&term).unwrap_or_default();
        if self.refused.remove(&term) {
            return Vec::new();
        }
        for IpBlock { cidr, except } in &blocks {
            let others = self.blocks.entry(*cidr);
            others.retain(|(other, _)| *other != term);
            if others.is_empty() {
                self.blocks.remove(*cidr);
            }
            self.memberships -= self.touch(*cidr, except);
        }
        for IpBlock { cidr, except } in &blocks {
            self.remove_prefix(*cidr);
            except.iter().for_each(|net| self.remove_prefix(*net));
        }
        blocks.into_iter().map(|block| block.cidr).collect()
    }

    /// The blocks of an active term.
    pub fn of_term(&self, term: u32) -> &[IpBlock] {
        self.of_term.get(&term).map_or(&[], Vec::as_slice)
    }

    /// The terms whose blocks do not fit.
    pub fn refused(&self) -> &BTreeSet<u32> {
        &self.refused
    }

    /// Adds or removes an active term that matches unknown pods.
    pub fn set_of_unknown_pods(&mut self, term: u32, active: bool) {
        let (before, changed) = (
            self.of_unknown_pods.is_empty(),
            match active {
                true => self.of_unknown_pods.insert(term),
                false => self.of_unknown_pods.remove(&term),
            },
        );
        if !changed {
            return;
        }
        let after = self.of_unknown_pods.is_empty();
        let ranges: Vec<IpNet> = self.ranges.values.keys().copied().collect();
        for range in ranges {
            match (before, after) {
                (true, false) => self.add_prefix(range),
                (false, true) => self.remove_prefix(range),
                _ => {}
            }
            self.touch(range, &[]);
        }
    }

    /// Sets the pod ranges of all nodes. Returns whether they changed.
    pub fn set_ranges(&mut self, ranges: impl Iterator<Item = IpNet>) -> bool {
        let new: BTreeSet<IpNet> = ranges.map(|net| net.trunc()).collect();
        let old: BTreeSet<IpNet> = self.ranges.values.keys().copied().collect();
        for range in old.symmetric_difference(&new) {
            if new.contains(range) {
                self.ranges.entry(*range);
                if !self.of_unknown_pods.is_empty() {
                    self.add_prefix(*range);
                }
                self.touch(*range, &[]);
            } else {
                self.touch(*range, &[]);
                self.ranges.remove(*range);
                if !self.of_unknown_pods.is_empty() {
                    self.remove_prefix(*range);
                }
            }
        }
        old != new
    }

    /// The blocks that contain an address, sorted.
    pub fn blocks_of(&self, address: IpAddr) -> Vec<u32> {
        self.blocks_around(IpNet::from(address))
    }

    /// The terms that match the addresses of a prefix that have no longer prefix, sorted.
    pub fn terms_of(&self, net: IpNet) -> Vec<u32> {
        let mut terms = self.blocks_around(net);
        if self.ranges.around(net).next().is_some() {
            terms.extend(&self.of_unknown_pods);
            terms.sort_unstable();
        }
        terms
    }

    /// Whether an address is in a pod range of any node.
    pub fn in_pod_range(&self, address: IpAddr) -> bool {
        self.ranges.around(IpNet::from(address)).next().is_some()
    }

    /// The longest prefix of an address.
    pub fn longest(&self, address: IpAddr) -> Option<IpNet> {
        self.prefixes.around(IpNet::from(address)).next_back().map(|(net, _)| net)
    }

    /// Whether a prefix exists.
    pub fn exists(&self, net: IpNet) -> bool {
        self.prefixes.values.contains_key(&net)
    }

    /// The prefixes that were added or removed, or that may match something else.
    pub fn take_dirty(&mut self) -> BTreeSet<IpNet> {
        std::mem::take(&mut self.dirty)
    }

    /// The memberships that blocks would add, or more: what several blocks have in common counts for each.
    fn memberships_of(&self, blocks: &[IpBlock]) -> usize {
        let new: usize = blocks.iter().map(prefixes_of).sum();
        // Blocks that contain a prefix, with those that are added.
        let around = |net: IpNet| -> usize {
            let before: usize = self.blocks.around(net).map(|(_, blocks)| blocks.len()).sum();
            before + blocks.len()
        };
        let of_block = |block: &IpBlock| {
            let prefixes = std::iter::once(&block.cidr).chain(&block.except);
            let of_new: usize = prefixes.map(|net| around(*net)).sum();
            self.prefixes.inside(block.cidr).count() + new + of_new + around(ALL_V4)
        };
        blocks.iter().map(of_block).sum()
    }

    fn blocks_around(&self, net: IpNet) -> Vec<u32> {
        let mut terms = Vec::new();
        for (_, blocks) in self.blocks.around(net) {
            terms.extend(blocks.iter().filter(|(_, e)| !is_in(e, &net)).map(|(term, _)| *term));
        }
        terms.sort_unstable();
        terms
    }

    fn add_prefix(&mut self, net: IpNet) {
        let reasons = self.prefixes.entry(net);
        *reasons += 1;
        if *reasons == 1 {
            self.memberships += self.blocks_around(net).len();
        }
        self.dirty.insert(net);
        if contains_v4(net) {
            self.add_prefix(ALL_V4);
        }
    }

    fn remove_prefix(&mut self, net: IpNet) {
        let reasons = self.prefixes.entry(net);
        *reasons = reasons.saturating_sub(1);
        if *reasons == 0 {
            self.prefixes.remove(net);
            self.memberships -= self.blocks_around(net).len();
        }
        self.dirty.insert(net);
        if contains_v4(net) {
            self.remove_prefix(ALL_V4);
        }
    }

    /// Marks the prefixes inside a range. Returns how many of them are in no exception.
    fn touch(&mut self, range: IpNet, except: &[IpNet]) -> usize {
        let mut outside = 0;
        for net in self.prefixes.inside(range) {
            outside += usize::from(!is_in(except, &net));
            self.dirty.insert(net);
        }
        outside
    }
}

/// Number of prefixes that a block needs, or one more.
fn prefixes_of(block: &IpBlock) -> usize {
    2 + block.except.len()
}

fn is_in(except: &[IpNet], net: &IpNet) -> bool {
    except.iter().any(|range| range.contains(net))
}

#[cfg(test)]
mod tests;
