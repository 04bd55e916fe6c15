//! Properties that hold for any objects and any order of changes.

mod compiled;
mod coverage;
pub mod kernel;
pub mod plans;
mod verdict;

use std::net::IpAddr;

use crate::generate::THIS_NODE;
use crate::index::Index;
use crate::model::{Change, NodeContext, Object, parse_cidr};

fn context() -> NodeContext {
    NodeContext {
        local_addresses: vec![IpAddr::from([172, 18, 0, 2])],
        service_cidrs: parse_cidr("10.96.0.0/16").into_iter().collect(),
    }
}

fn index_of(objects: &[Object]) -> Index {
    let mut index = Index::new(THIS_NODE);
    objects.iter().for_each(|o| index.apply(Change::Apply(o.clone())));
    index
}
