//! A plan into the maps, in its order, in as few system calls as the kernel allows.

use sluice_bpf::BpfError;
use sluice_core::Op;

use super::maps::Maps;

/// Carries out the ops in their order; neighbours of one sort become one batch.
///
/// # Errors
/// The first one. What stands before it is written, and every frontend is whole; read back and
/// plan again.
pub fn apply(maps: &Maps, ops: &[Op]) -> Result<(), BpfError> {
    let mut rest = ops;
    while let Some(first) = rest.first() {
        let sort = std::mem::discriminant(first);
        let n = rest.iter().take_while(|op| std::mem::discriminant(*op) == sort).count();
        let (batch, after) = rest.split_at(n);
        write(maps, batch)?;
        rest = after;
    }
    Ok(())
}

/// Keys and values of a batch; `pick` takes the ops of one sort apart.
fn pairs<K, V>(batch: &[Op], pick: impl Fn(&Op) -> Option<(K, V)>) -> (Vec<K>, Vec<V>) {
    batch.iter().filter_map(pick).unzip()
}

fn keys<K>(batch: &[Op], pick: impl Fn(&Op) -> Option<K>) -> Vec<K> {
    batch.iter().filter_map(pick).collect()
}

/// One batch; all ops are of the first one's sort.
fn write(maps: &Maps, batch: &[Op]) -> Result<(), BpfError> {
    let Some(first) = batch.first() else { return Ok(()) };
    match first {
        Op::PutNetwork(..) => {
            let (k, v) = pairs(batch, |op| match op {
                Op::PutNetwork(k, v) => Some((*k, *v)),
                _ => None,
            });
            maps.networks.update_batch(&k, &v)
        }
        Op::PutBackend(..) => {
            let (k, v) = pairs(batch, |op| match op {
                Op::PutBackend(k, v) => Some((*k, *v)),
                _ => None,
            });
            maps.backends.update_batch(&k, &v)
        }
        Op::WriteSlots { .. } => {
            let (mut k, mut v) = (Vec::new(), Vec::new());
            for op in batch {
                if let Op::WriteSlots { offset, ids } = op {
                    k.extend((*offset..).take(ids.len()));
                    v.extend_from_slice(ids);
                }
            }
            maps.slots.update_batch(&k, &v)
        }
        Op::PutFrontend(..) => {
            let (k, v) = pairs(batch, |op| match op {
                Op::PutFrontend(k, v) => Some((*k, *v)),
                _ => None,
            });
            maps.frontends.update_batch(&k, &v)
        }
        Op::DeleteFrontend(_) => maps.frontends.delete_batch(&keys(batch, |op| match op {
            Op::DeleteFrontend(k) => Some(*k),
            _ => None,
        })),
        Op::DeleteBackend(_) => maps.backends.delete_batch(&keys(batch, |op| match op {
            Op::DeleteBackend(k) => Some(*k),
            _ => None,
        })),
        // Tries have no batches on older kernels; there are few networks.
        Op::DeleteNetwork(_) => maps.networks.delete_batch(&keys(batch, |op| match op {
            Op::DeleteNetwork(k) => Some(*k),
            _ => None,
        })),
    }
}
