//! Typed maps, many entries per call: [`RawMap`](crate::RawMap) with the types' bytes.

pub(crate) mod resume;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::Map;
use crate::sys::BpfError;

impl<K, V> Map<K, V>
where
    K: FromBytes + IntoBytes + Immutable,
    V: FromBytes + IntoBytes + Immutable,
{
    /// Writes `keys[i] -> values[i]`, in order, in as few calls as the kernel allows.
    ///
    /// # Errors
    /// Slices of different lengths or a per-CPU map (`InvalidInput`); the first error of the
    /// kernel. The entries before the failed one are written.
    pub fn update_batch(&self, keys: &[K], values: &[V]) -> Result<(), BpfError> {
        self.raw().update_batch(keys.as_bytes(), values.as_bytes())
    }

    /// Deletes `keys` in as few calls as the kernel allows; absent keys are skipped.
    ///
    /// # Errors
    /// The first error of the kernel other than ENOENT. The entries before the failed one are
    /// deleted.
    pub fn delete_batch(&self, keys: &[K]) -> Result<(), BpfError> {
        self.raw().delete_batch(keys.as_bytes())
    }

    /// Passes every entry to `visit`. Concurrent writers can hide entries or make them appear twice;
    /// `visit` may delete entries.
    ///
    /// # Errors
    /// As [`RawMap::visit`](crate::RawMap::visit).
    pub fn visit(&self, mut visit: impl FnMut(K, V)) -> Result<(), BpfError> {
        self.raw().visit(|chunk| {
            let keys = chunk.keys.chunks_exact(size_of::<K>());
            for (key, value) in keys.zip(chunk.values.chunks_exact(size_of::<V>())) {
                if let (Ok(key), Ok(value)) = (K::read_from_bytes(key), V::read_from_bytes(value)) {
                    visit(key, value);
                }
            }
        })
    }

    /// Reads every entry. Concurrent writers can hide entries or make them appear twice.
    ///
    /// # Errors
    /// A per-CPU map (`InvalidInput`); any error of the kernel.
    pub fn entries(&self) -> Result<Vec<(K, V)>, BpfError> {
        let all = self.raw().entries()?;
        let keys = all.keys.chunks_exact(size_of::<K>());
        let values = all.values.chunks_exact(size_of::<V>());
        Ok(keys
            .zip(values)
            .filter_map(|(k, v)| Some((K::read_from_bytes(k).ok()?, V::read_from_bytes(v).ok()?)))
            .collect())
    }
}
