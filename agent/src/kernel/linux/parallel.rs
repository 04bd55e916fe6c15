//! Loading of programs on several CPUs, until the agent is to stop.

use std::sync::{Mutex, PoisonError};
use std::thread;

use super::load::LoadError;
use crate::signals::Stop;

/// Number of programs that are loaded in parallel. More would take more of the node's CPUs while its pods run.
const PARALLEL_LOADS: usize = 2;

/// Loads items in parallel: verification takes most of the agent's start-up time.
///
/// # Errors
/// An item failed, or the agent is to stop: no further one is begun.
pub fn in_parallel<T: Send>(
    items: impl Iterator<Item = T> + Send,
    stop: &Stop,
    load: impl Fn(T) -> Result<(), LoadError> + Sync,
) -> Result<(), LoadError> {
    let left = Mutex::new(items);
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some(item) = next() {
            let result = if stop.is_set() { Err(LoadError::Stopping) } else { load(item) };
            if result.is_err() {
                // The others have nothing left to do.
                left.lock().unwrap_or_else(PoisonError::into_inner).by_ref().for_each(drop);
                return result;
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..PARALLEL_LOADS).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn no_program_is_begun_after_the_signal_and_the_others_end() {
        let (stop, loaded) = (Stop::default(), AtomicUsize::new(0));
        let load = |n: usize| {
            if n == 3 {
                stop.set();
            }
            while n > 3 && !stop.is_set() {
                thread::yield_now();
            }
            loaded.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        let result = in_parallel(0..100, &stop, load);
        assert!(matches!(result, Err(LoadError::Stopping)), "{result:?}");
        // With the one that the other thread has begun meanwhile.
        assert!((4..=5).contains(&loaded.into_inner()));
    }

    #[test]
    fn every_program_is_loaded_once_and_a_failure_ends_the_rest() {
        let (stop, loaded) = (Stop::default(), Mutex::new(Vec::new()));
        let load = |n: usize| {
            loaded.lock().unwrap().push(n);
            if n < 50 { Ok(()) } else { Err(LoadError::NoObject) }
        };
        in_parallel(0..50, &stop, load).unwrap();
        let mut all = std::mem::take(&mut *loaded.lock().unwrap());
        all.sort_unstable();
        assert_eq!(all, (0..50).collect::<Vec<_>>());
        assert!(matches!(in_parallel(50..100, &stop, load), Err(LoadError::NoObject)));
        assert!(loaded.into_inner().unwrap().len() <= PARALLEL_LOADS);
    }
}
