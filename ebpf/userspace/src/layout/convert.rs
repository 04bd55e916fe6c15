//! Conversion of entries between two layouts of a map.
//!
//! A field is copied to the field of the same path. Integers of another size keep their value;
//! arrays are copied up to the shorter length; a field that the other layout lacks becomes zero.

use super::{Field, FieldKind, MapLayout};

/// Why entries of one layout cannot be converted to another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConversionError {
    /// The fields have another meaning.
    #[error("revision {from} of its entries cannot be converted to {to}")]
    Revision {
        /// Revision of the entries.
        from: u32,
        /// The wanted one.
        to: u32,
    },
    /// A field has another kind or size.
    #[error("field {0} has another type")]
    Field(String),
    /// A field ends beyond the entry.
    #[error("field {0} ends beyond its entry of {1} bytes")]
    Bounds(String, usize),
}

/// Sizes of the keys and values of a map, in bytes.
pub type Sizes = (usize, usize);

/// Converts entries from one layout to another.
#[derive(Clone, Debug)]
pub struct Conversion {
    key: Vec<Step>,
    value: Vec<Step>,
    from: Sizes,
    to: Sizes,
}

/// Copies one element.
#[derive(Clone, Copy, Debug)]
struct Step {
    from: usize,
    from_size: usize,
    to: usize,
    to_size: usize,
}

impl Conversion {
    /// The conversion between two layouts, for maps with keys and values of these sizes.
    ///
    /// # Errors
    /// The layouts have another revision, a field has another type, or a layout does not fit to its
    /// sizes.
    pub fn new(
        (from, from_sizes): (&MapLayout, Sizes),
        (to, to_sizes): (&MapLayout, Sizes),
    ) -> Result<Conversion, ConversionError> {
        if from.revision != to.revision {
            return Err(ConversionError::Revision { from: from.revision, to: to.revision });
        }
        Ok(Conversion {
            key: steps((&from.key, from_sizes.0), (&to.key, to_sizes.0))?,
            value: steps((&from.value, from_sizes.1), (&to.value, to_sizes.1))?,
            from: from_sizes,
            to: to_sizes,
        })
    }

    /// Converts entries: concatenated keys, and as many values. An entry with an integer that does
    /// not fit is left out. Returns keys, values and the number of entries that were left out.
    pub fn convert(&self, keys: &[u8], values: &[u8]) -> (Vec<u8>, Vec<u8>, usize) {
        let mut left_out = 0;
        let (mut to_keys, mut to_values) = (Vec::new(), Vec::new());
        for (key, value) in keys.chunks_exact(self.from.0).zip(values.chunks_exact(self.from.1)) {
            let mut entry = (vec![0; self.to.0], vec![0; self.to.1]);
            if apply(&self.key, key, &mut entry.0) && apply(&self.value, value, &mut entry.1) {
                to_keys.extend(entry.0);
                to_values.extend(entry.1);
            } else {
                left_out += 1;
            }
        }
        (to_keys, to_values, left_out)
    }
}

fn steps(
    (from, from_size): (&[Field], usize),
    (to, to_size): (&[Field], usize),
) -> Result<Vec<Step>, ConversionError> {
    for (fields, size) in [(from, from_size), (to, to_size)] {
        if let Some(field) = fields.iter().find(|field| field.offset + field.len() > size) {
            return Err(ConversionError::Bounds(field.path.clone(), size));
        }
    }
    let mut steps = Vec::new();
    for target in to {
        let Some(source) = from.iter().find(|field| field.path == target.path) else { continue };
        let same = source.kind == target.kind
            && (source.size == target.size || source.kind == FieldKind::Integer);
        if !same {
            return Err(ConversionError::Field(target.path.clone()));
        }
        for n in 0..source.count.min(target.count) {
            steps.push(Step {
                from: source.offset + n * source.size,
                from_size: source.size,
                to: target.offset + n * target.size,
                to_size: target.size,
            });
        }
    }
    Ok(steps)
}

/// Runs the steps; false if an integer does not fit. The target is zero before.
fn apply(steps: &[Step], from: &[u8], to: &mut [u8]) -> bool {
    for step in steps {
        // `steps` has compared all fields with the sizes.
        let source = &from[step.from..step.from + step.from_size];
        let target = &mut to[step.to..step.to + step.to_size];
        let len = source.len().min(target.len());
        let (low, high) = halves(source, len);
        let at = if cfg!(target_endian = "big") { target.len() - len } else { 0 };
        target[at..at + len].copy_from_slice(low);
        if high.iter().any(|byte| *byte != 0) {
            return false;
        }
    }
    true
}

/// The `len` low bytes of an integer in host order, and the others.
fn halves(source: &[u8], len: usize) -> (&[u8], &[u8]) {
    if cfg!(target_endian = "big") {
        let (high, low) = source.split_at(source.len() - len);
        (low, high)
    } else {
        source.split_at(len)
    }
}
