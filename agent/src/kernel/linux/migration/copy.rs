//! Copies entries from one version's map to another's.

use sluice_abi::map;
use sluice_bpf::layout::Conversion;
use sluice_bpf::{BpfError, RawEntries};

use super::MigrationError;
use super::pin_set::{DescribedMap, PinSet};
use crate::kernel::Copied;

/// What happens to an entry whose key the target has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It is replaced: no program uses the target yet.
    Replace,
    /// It stays: it is newer.
    Keep,
}

/// Number of `BPF_MAP_TYPE_ARRAY`, whose keys always exist.
const ARRAY: u32 = 2;

/// Copies a map. Does nothing if both versions share it, or the source lacks it.
///
/// # Errors
/// The layouts cannot be converted; a map cannot be read or written.
pub fn copy(
    name: &str,
    from: &PinSet,
    to: &PinSet,
    existing: Existing,
) -> Result<Copied, MigrationError> {
    let (Some(source), Some(target)) = (from.map(name)?, to.map(name)?) else {
        return Ok(Copied::default());
    };
    if source.is(&target) {
        return Ok(Copied::default());
    }
    let conversion = conversion(name, (from, &source), (to, &target))?;
    let mut copied = Copied::default();
    let mut result = Ok(());
    let mut write = |chunk: &RawEntries| {
        if result.is_ok() {
            result = write_chunk(chunk, &conversion, &target, existing, &mut copied);
        }
    };
    if source.map.visit(&mut write).is_err() {
        // A map type without batches.
        write(&source.map.entries()?);
    }
    result?;
    Ok(copied)
}

/// The conversion of a map's entries.
///
/// # Errors
/// The layouts cannot be converted.
pub fn conversion(
    name: &str,
    (from, source): (&PinSet, &DescribedMap),
    (to, target): (&PinSet, &DescribedMap),
) -> Result<Conversion, MigrationError> {
    Conversion::new((&source.layout, source.sizes()), (&target.layout, target.sizes())).map_err(
        |error| MigrationError::Conversion {
            map: name.to_owned(),
            from: from.name(),
            to: to.name(),
            source: error,
        },
    )
}

/// Raises `POLICY_EPOCH` of `to` to that of `from`, at which flows may have been judged: the tables of `to` can be
/// those of an earlier time. Does nothing if both versions share it, or `to` is not behind.
///
/// # Errors
/// The layouts cannot be converted; a map cannot be read or written.
pub fn raise_epoch(from: &PinSet, to: &PinSet) -> Result<(), MigrationError> {
    let name = map::POLICY_EPOCH;
    let (Some(source), Some(target)) = (from.map(name)?, to.map(name)?) else { return Ok(()) };
    if source.is(&target) {
        return Ok(());
    }
    let key = 0u32.to_ne_bytes();
    let number = |bytes: Vec<u8>| <[u8; 4]>::try_from(bytes).map_or(0, u32::from_ne_bytes);
    let theirs = source.map.lookup(&key)?.unwrap_or_default();
    let (_, theirs, _) = conversion(name, (from, &source), (to, &target))?.convert(&key, &theirs);
    let theirs = number(theirs);
    let own = number(target.map.lookup(&key)?.unwrap_or_default());
    if later(own, theirs) != own {
        tracing::info!(from = own, to = theirs, "epoch of the policies raised");
        target.map.update_batch(&key, &theirs.to_ne_bytes())?;
    }
    Ok(())
}

/// The later of two numbers that wrap around.
fn later(a: u32, b: u32) -> u32 {
    if b.wrapping_sub(a).cast_signed() > 0 { b } else { a }
}

/// Empties a map.
///
/// # Errors
/// It cannot be read or written.
pub fn clear(target: &DescribedMap) -> Result<(), BpfError> {
    target.map.delete_batch(&target.map.entries()?.keys)
}

fn write_chunk(
    chunk: &RawEntries,
    conversion: &Conversion,
    target: &DescribedMap,
    existing: Existing,
    copied: &mut Copied,
) -> Result<(), BpfError> {
    let (keys, values, mut left_out) = conversion.convert(&chunk.keys, &chunk.values);
    let is_array = target.map.info().map_type == ARRAY;
    let (key_size, value_size) = target.sizes();
    if existing == Existing::Replace && target.map.update_batch(&keys, &values).is_ok() {
        copied.written += keys.len() / key_size;
        copied.left_out += left_out;
        return Ok(());
    }
    for (key, value) in keys.chunks_exact(key_size).zip(values.chunks_exact(value_size)) {
        let zero = value.iter().all(|byte| *byte == 0);
        let written = match existing {
            _ if is_array && zero => continue,
            Existing::Replace => target.map.update_batch(key, value).map(|()| true),
            Existing::Keep if is_array => fill_row(target, key, value),
            Existing::Keep => target.map.insert_absent(key, value),
        };
        match written {
            Ok(written) => copied.written += usize::from(written),
            // Full, or beyond the end of an array.
            Err(e) if e.errno() == libc::E2BIG => left_out += 1,
            Err(e) => return Err(e),
        }
    }
    copied.left_out += left_out;
    Ok(())
}

/// Writes a row of an array if it is all zero.
fn fill_row(target: &DescribedMap, key: &[u8], value: &[u8]) -> Result<bool, BpfError> {
    let row = target.map.lookup(key)?;
    if row.is_none_or(|row| row.iter().any(|byte| *byte != 0)) {
        return Ok(false);
    }
    target.map.update_batch(key, value).map(|()| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_epoch_is_kept_also_when_the_numbers_wrap_around() {
        for (earlier, late) in [(0, 0), (7, 8), (7, 17), (u32::MAX, 0), (u32::MAX - 3, 5)] {
            assert_eq!(later(earlier, late), late, "{earlier} {late}");
            assert_eq!(later(late, earlier), late, "{late} {earlier}");
        }
    }
}
