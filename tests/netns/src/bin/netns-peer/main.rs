//! Runs inside nodes and pods of the namespace tests: serves, asks, pings, forges. What it found
//! goes to standard output as JSON; `netns_tests::peer` starts it and reads that.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

mod ask;
mod hold;
mod raw;
mod serve;

use std::io::Write;
use std::time::Duration;

use serde::Serialize;

/// What one answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", name, ports @ ..] => serve::serve(name, ports),
        ["collect", port] => serve::collect(port.parse().unwrap()),
        ["ask", how, server, options @ ..] => tell(&ask::ask(how, server, options)),
        ["download", server, bytes] => tell(&ask::download(server, bytes.parse().unwrap())),
        ["upload", server, bytes] => tell(&ask::upload(server, bytes.parse().unwrap())),
        ["hold", how, server] => tell(&hold::hold(how, server)),
        ["ping", address, size] => tell(&raw::ping(address, size.parse().unwrap())),
        ["spoof", source, destination] => tell(&raw::spoof(source, destination)),
        _ => panic!("{words:?}"),
    }
}

fn tell(what: &impl Serialize) {
    say(&serde_json::to_string(what).unwrap());
}

fn say(line: &str) {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}").unwrap();
    output.flush().unwrap();
}

/// The name of an error that does not depend on its wording.
fn name(e: &std::io::Error) -> String {
    // A receive time-out is EAGAIN.
    match e.kind() {
        std::io::ErrorKind::WouldBlock => "TimedOut".to_owned(),
        kind => format!("{kind:?}"),
    }
}
