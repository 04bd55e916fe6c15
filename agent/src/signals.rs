//! SIGTERM and SIGINT, which end the agent.
//!
//! A thread of its own receives them: the thread of the event loop is busy for seconds while the kernel verifies
//! programs. All other threads block them, so that a signal during the start stays pending. Otherwise the kernel
//! would discard it, as for every first process of a PID namespace without a handler.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::{SigSet, Signal};

/// Whether the agent is to stop. Long operations before the event loop runs, or within one of its passes,
/// read it.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Whether a signal has arrived.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Requests the stop.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The signals, which are blocked and wait for their receiver.
#[derive(Debug)]
pub struct Signals(SigSet);

impl Signals {
    /// Blocks the signals in this thread and in those that it starts.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn block() -> io::Result<Signals> {
        let set = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
        set.thread_block()?;
        Ok(Signals(set))
    }

    /// Starts the thread that receives the first signal and calls `stopping`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn receive(self, stopping: impl FnOnce() + Send + 'static) -> io::Result<Stop> {
        let stop = Stop::default();
        let received = stop.clone();
        let receive = move || match self.0.wait() {
            Ok(signal) => {
                tracing::info!(signal = signal.as_str(), "signal received, stopping");
                received.set();
                stopping();
            }
            Err(error) => tracing::error!(%error, "could not wait for signals"),
        };
        thread::Builder::new().name("signals".to_owned()).spawn(receive)?;
        Ok(stop)
    }
}
