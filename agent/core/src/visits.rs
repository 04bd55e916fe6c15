//! What the compiler of policies visits, counted in tests: a cost that no clock decides.

#[cfg(test)]
thread_local! {
    static VISITS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// An object, a content or a row is visited.
#[inline]
pub fn visit() {
    #[cfg(test)]
    VISITS.set(VISITS.get() + 1);
}

/// Visits of this thread since the last call.
#[cfg(test)]
pub fn take() -> usize {
    VISITS.take()
}
