//! Claims of Services to frontends. Several Services may claim one address and port; the claim that
//! ranks first is served, and the others wait.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sluice_abi::FrontendKey;

use super::ports::PortIndex;
use crate::compile::{FrontendKind, FrontendRow};
use crate::model::ObjectName;

/// A Service that has claims.
#[derive(Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its name.
    pub name: ObjectName,
    /// Its age: the time of its creation.
    pub created: i64,
}

/// The claim of one Service to one key.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The Service.
    pub owner: Arc<Owner>,
    /// The port; wildcard rows have none.
    pub port: Option<PortIndex>,
    /// The row.
    pub row: FrontendRow,
}

impl Claim {
    fn rank(&self) -> (FrontendKind, i64, &ObjectName) {
        (self.row.kind, self.owner.created, &self.owner.name)
    }

    fn is_of(&self, name: &ObjectName) -> bool {
        self.owner.name == *name
    }

    /// Whether another claim leads to the same row of the same Service.
    pub fn is_same(&self, other: &Claim) -> bool {
        self.port == other.port && self.row == other.row && self.owner.name == other.owner.name
    }
}

/// The claims to one key, at least one, by rank. Nearly every key has one.
#[derive(Clone, Debug)]
enum Ranked {
    One(Claim),
    Several(Vec<Claim>),
}

impl Ranked {
    fn claims(&self) -> &[Claim] {
        match self {
            Ranked::One(claim) => std::slice::from_ref(claim),
            Ranked::Several(claims) => claims,
        }
    }
}

/// The first claim to a key before and after a change.
#[derive(Debug)]
pub struct Served {
    /// Before.
    pub before: Option<Claim>,
    /// After.
    pub after: Option<Claim>,
    /// Whether several Services claimed the key before, or do after.
    pub contended: bool,
}

/// All claims.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    by_key: BTreeMap<FrontendKey, Ranked>,
    /// Keys that several Services claim, without wildcard rows.
    contended: BTreeSet<FrontendKey>,
}

impl Claims {
    /// The claim that is served.
    pub fn served(&self, key: &FrontendKey) -> Option<&Claim> {
        self.by_key.get(key)?.claims().first()
    }

    /// The served claim of every key.
    pub fn all_served(&self) -> impl Iterator<Item = (&FrontendKey, &Claim)> {
        self.by_key.iter().filter_map(|(key, ranked)| Some((key, ranked.claims().first()?)))
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// The claims to a key, if several Services claim it.
    pub fn contended_at(&self, key: &FrontendKey) -> Option<&[Claim]> {
        self.by_key.get(self.contended.get(key)?).map(Ranked::claims)
    }

    /// Number of [`Claims::contended`].
    pub fn contended_count(&self) -> usize {
        self.contended.len()
    }

    /// Keys that several Services claim, without wildcard rows, and their claims by rank.
    pub fn contended(&self) -> impl Iterator<Item = (&FrontendKey, &[Claim])> {
        self.contended.iter().filter_map(|key| Some((key, self.by_key.get(key)?.claims())))
    }

    /// Sets the claim of a Service to a key, or withdraws it.
    pub fn set(&mut self, key: FrontendKey, name: &ObjectName, claim: Option<Claim>) -> Served {
        let mut claims = match self.by_key.remove(&key) {
            None => Vec::new(),
            Some(Ranked::One(claim)) => vec![claim],
            Some(Ranked::Several(claims)) => claims,
        };
        let before = claims.first().cloned();
        claims.retain(|claim| !claim.is_of(name));
        if let Some(claim) = claim {
            let at = claims.partition_point(|known| known.rank() < claim.rank());
            claims.insert(at, claim);
        }
        let after = claims.first().cloned();
        let is_contended = claims.len() > 1 && key.port.get() != 0;
        let was_contended =
            if is_contended { !self.contended.insert(key) } else { self.contended.remove(&key) };
        let ranked = match claims.len() {
            0 | 1 => claims.pop().map(Ranked::One),
            _ => Some(Ranked::Several(claims)),
        };
        if let Some(ranked) = ranked {
            self.by_key.insert(key, ranked);
        }
        Served { before, after, contended: is_contended || was_contended }
    }
}

const _: () =
    assert!(size_of::<Ranked>() <= 24, "a claim is small: there are three per Service port");
