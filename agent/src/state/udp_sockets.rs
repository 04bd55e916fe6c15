//! When the connected UDP sockets are compared with the maps that led to their backends.

use super::State;
use crate::conditions::Concern;

impl State {
    /// Records that frontends or backends ended, or lead elsewhere: sockets that were translated before may
    /// have to be closed.
    pub fn compare_sockets(&mut self) {
        self.sockets_changed = true;
        self.mark([Concern::StaleSockets]);
    }

    /// Whether [`State::compare_sockets`] was called since the last call.
    pub fn take_sockets_changed(&mut self) -> bool {
        std::mem::take(&mut self.sockets_changed)
    }

    /// Whether sockets are compared at each poll.
    pub fn poll_sockets(&mut self, poll: bool) {
        self.poll_sockets = poll;
    }
}
