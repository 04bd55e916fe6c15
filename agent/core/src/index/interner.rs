//! One copy of equal values.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

/// Size from which values that nothing uses are removed.
const SMALLEST: usize = 64;

/// One copy of each value in use. Unused values are removed whenever the number of values has doubled.
#[derive(Debug)]
pub struct Interner<T: ?Sized> {
    known: HashSet<Arc<T>>,
    sweep_at: usize,
}

impl<T: ?Sized> Clone for Interner<T> {
    fn clone(&self) -> Interner<T> {
        Interner { known: self.known.clone(), sweep_at: self.sweep_at }
    }
}

impl<T: ?Sized> Default for Interner<T> {
    fn default() -> Interner<T> {
        Interner { known: HashSet::new(), sweep_at: SMALLEST }
    }
}

impl<T: ?Sized + Hash + Eq> Interner<T> {
    /// The copy of a value, if there is one.
    pub fn get(&self, value: &T) -> Option<Arc<T>> {
        self.known.get(value).map(Arc::clone)
    }

    /// The copy of a value, which may become this one.
    pub fn intern(&mut self, value: Arc<T>) -> Arc<T> {
        if let Some(known) = self.known.get(&*value) {
            return Arc::clone(known);
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|value| Arc::strong_count(value) > 1);
            self.sweep_at = (2 * self.known.len()).max(SMALLEST);
        }
        self.known.insert(Arc::clone(&value));
        value
    }

    /// Replaces a value by its copy.
    pub fn share(&mut self, value: &mut Arc<T>) {
        *value = self.intern(Arc::clone(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_copy_and_unused_ones_are_removed() {
        let mut texts: Interner<str> = Interner::default();
        let kept = texts.intern("kept".into());
        assert!(Arc::ptr_eq(&kept, &texts.intern("kept".into())));
        let mut other: Arc<str> = "kept".into();
        texts.share(&mut other);
        assert!(Arc::ptr_eq(&kept, &other));
        for n in 0..10 * SMALLEST {
            texts.intern(n.to_string().into());
        }
        assert!(texts.known.len() <= SMALLEST, "{} values", texts.known.len());
        assert_eq!(texts.get("kept").as_deref(), Some("kept"));
        assert!(texts.get("1").is_none());
    }
}
