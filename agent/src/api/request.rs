//! Requests of the command line.

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// A [`Status`].
    Status,
    /// A list of [`ServiceRow`].
    Services,
}

/// A question on its way to the event loop.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Where the JSON goes.
    pub answer: oneshot::Sender<String>,
}
