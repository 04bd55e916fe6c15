//! Whether clients reach addresses while policies change.

use std::thread;
use std::time::Duration;

use netns_tests::{Host, eventually};

/// Name of the server that answered a TCP request, or why none did.
pub fn ask(client: &Host, to: &str) -> Result<String, String> {
    ask_within(Duration::from_millis(400), client, to)
}

/// [`ask`] with another limit for the connection, and for the response.
pub fn ask_within(limit: Duration, client: &Host, to: &str) -> Result<String, String> {
    let limit = limit.as_millis().to_string();
    let exchange = client.connect_with("tcp", to, &["--deadline-ms", &limit]).remove(0);
    exchange.map(|(response, _)| response.server)
}

/// Waits until a client reaches an address, or until it does not.
#[track_caller]
pub fn reaches(what: &str, client: &Host, to: &str, expected: bool) {
    let what = format!("{what} to {to}, {}", if expected { "allowed" } else { "denied" });
    eventually(&what, || match (ask(client, to), expected) {
        (Ok(_), true) => Ok(()),
        // Denied packets are dropped, not refused.
        (Err(error), false) if error != "ConnectionRefused" => Ok(()),
        (result, _) => Err(format!("{result:?}")),
    });
}

/// What a client is called, the client, an address, and whether it reaches it.
pub type Check<'a> = (&'a str, &'a Host, &'a str, bool);

/// [`reaches`] for several at the same time, because a client that is denied waits. The second pass checks again
/// those that held before a change was in force.
pub fn all_reach(checks: &[Check<'_>]) {
    for _ in 0..2 {
        thread::scope(|scope| {
            for (what, client, to, expected) in checks {
                scope.spawn(|| reaches(what, client, to, *expected));
            }
        });
    }
}
