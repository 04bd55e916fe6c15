//! A plan into the maps, in its order, in as few system calls as the kernel allows.

use sluice_bpf::{BpfError, Map};
use sluice_core::table::{self, Rows, Table, Write};

use super::maps::Maps;

/// Writes the batches in their order.
///
/// # Errors
/// The first failed batch. The batches before it are written, and every frontend is intact; read
/// back and plan again.
pub fn apply(maps: &Maps, writes: &[Write]) -> Result<(), BpfError> {
    writes.iter().try_for_each(|write| {
        let name = write.table().name;
        if name == table::Networks::SPEC.name {
            batch::<table::Networks>(&maps.networks, write)
        } else if name == table::Backends::SPEC.name {
            batch::<table::Backends>(&maps.backends, write)
        } else if name == table::Slots::SPEC.name {
            batch::<table::Slots>(&maps.slots, write)
        } else {
            batch::<table::Frontends>(&maps.frontends, write)
        }
    })
}

fn batch<T: Table>(map: &Map<T::Key, T::Value>, write: &Write) -> Result<(), BpfError> {
    match write.clone() {
        Write::Put { table, keys, values } => {
            let rows = Rows { table, keys, values };
            let (keys, values): (Vec<_>, Vec<_>) = rows.typed::<T>().unzip();
            map.update_batch(&keys, &values)
        }
        Write::Delete { keys, .. } => {
            let keys = keys.chunks_exact(size_of::<T::Key>());
            let keys: Vec<T::Key> =
                keys.filter_map(|key| zerocopy::FromBytes::read_from_bytes(key).ok()).collect();
            map.delete_batch(&keys)
        }
    }
}
