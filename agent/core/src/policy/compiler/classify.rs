//! Second half of the compiler: the classes of addresses and prefixes.

use std::collections::BTreeMap;

use sluice_abi::Addr;

use super::super::classes::ClassContent;
use super::super::pods::dirty::merge;
use super::{Changed, Policies};
use crate::compile::network_key;
use crate::index::Index;

impl Policies {
    /// Moves addresses and prefixes to their classes.
    pub(super) fn classify(&mut self, index: &Index, changed: &mut Changed) {
        let (mut new, mut former, mut moves) = (Vec::new(), Vec::new(), BTreeMap::new());
        for net in self.networks.take_dirty() {
            let terms = self.networks.terms_of(net).into();
            let content =
                self.networks.exists(net).then(|| ClassContent { terms, named: [].into() });
            let matched = content.clone().filter(|content| !content.is_empty());
            let class = matched.map(|content| self.class(content, &mut new));
            let value = content.map(|_| class);
            let before = match value {
                Some(class) => self.prefixes.insert(net, class),
                None => self.prefixes.remove(&net),
            };
            former.extend(before.flatten());
            self.network_rows.set(network_key(net), value.map(|class| self.classes.id(class)));
        }
        let dirty = self.pods.take_dirty();
        for address in dirty.addresses.iter().copied() {
            let content = self.pods.content(index, address).map(|content| {
                let blocks = self.networks.blocks_of(address.into());
                with_blocks(content, &blocks)
            });
            // Known pods that nothing matches have no row, unless unknown ones must be distinguished.
            let matters = |c: &ClassContent| !c.is_empty() || self.pods.distinguishes_unknown();
            let content = content.filter(matters);
            let class = content.map(|content| self.class(content, &mut new));
            let before = match class {
                Some(class) => self.addresses.insert(address, class),
                None => self.addresses.remove(&address),
            };
            former.extend(before);
            self.set_class_row(address, class);
            if before != class {
                // Without a class, an address has that of its prefix.
                let range = || {
                    let net = self.networks.longest(address.into())?;
                    *self.prefixes.get(&net)?
                };
                let owner = self.pods.owner(index, address).or_else(|| dirty.former(address));
                merge(&mut moves, (before.or_else(range), class.or_else(range)), owner);
            }
        }
        for class in new {
            self.tables.add_class(class, &self.classes);
        }
        for ((before, after), owner) in moves {
            for table in self.tables.differing(before, after, &self.classes) {
                merge(&mut changed.tables, table, owner.clone());
            }
        }
        for class in former {
            if let Some(content) = self.classes.release(class) {
                self.tables.drop_class(class, &content, &self.classes);
            }
        }
        self.fit_classes(changed);
    }

    /// The class with a content, with one more reference.
    fn class(&mut self, content: ClassContent, new: &mut Vec<u32>) -> u32 {
        let (class, is_new) = self.classes.intern(content, &self.terms);
        if is_new {
            new.push(class);
        }
        class
    }

    pub(super) fn set_class_row(&mut self, address: Addr, class: Option<u32>) {
        let id = Some(self.classes.id(class)).filter(|id| *id != 0);
        let rows = self.class_rows.rows();
        self.unclassed.remove(&address);
        if id.is_some() && rows.len() >= self.limits.classes && !rows.contains_key(&address) {
            // The address then has the class of its prefix, which fewer terms match.
            self.unclassed.insert(address);
            return;
        }
        self.class_rows.set(address, id);
    }
}

/// A content with the blocks that contain the address.
fn with_blocks(content: ClassContent, blocks: &[u32]) -> ClassContent {
    if blocks.is_empty() {
        return content;
    }
    let mut terms = [&content.terms, blocks].concat();
    terms.sort_unstable();
    ClassContent { terms: terms.into(), named: content.named }
}
