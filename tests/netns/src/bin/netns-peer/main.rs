//! Runs inside nodes and pods of the namespace tests: servers, clients, raw sockets, captures. The
//! result is JSON on standard output, which `netns_tests::Host` reads.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

mod capture;
mod connect;
mod hold;
mod raw;
mod resolve;
mod serve;
mod spray;

use std::io::Write;
use std::time::Duration;

use netns_tests::scaled;
use serde::Serialize;

/// Deadline of one response.
fn deadline() -> Duration {
    scaled(Duration::from_secs(4))
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", name, ports @ ..] => serve::serve(name, ports),
        ["receive", port] => serve::receive(port.parse().unwrap()),
        ["connect", protocol, server, options @ ..] => {
            report(&connect::connect_times(protocol, server, options));
        }
        ["connect-each", servers @ ..] => report(&connect::connect_each(servers)),
        ["download", server, bytes] => report(&connect::download(server, bytes.parse().unwrap())),
        ["upload", server, bytes] => report(&connect::upload(server, bytes.parse().unwrap())),
        ["hold", protocol, server, limit] => {
            report(&hold::hold(protocol, server, milliseconds(limit)));
        }
        ["spray", port, udp, tcp] => report(&spray::spray(port.parse().unwrap(), udp, tcp)),
        ["resolve", server, rate, seconds] => {
            let (rate, seconds) = (rate.parse().unwrap(), seconds.parse().unwrap());
            report(&resolve::resolve(server, rate, seconds));
        }
        ["ping", address, size, deadline] => {
            let deadline = scaled(milliseconds(deadline));
            report(&raw::ping(address, size.parse().unwrap(), deadline));
        }
        ["send-from", source, destination] => report(&raw::send_from(source, destination, None)),
        ["send-from", source, destination, route] => {
            report(&raw::send_from(source, destination, Some(route)));
        }
        ["send-frame", device, frame] => report(&capture::send_frame(device, frame)),
        ["capture", device, file] => report(&capture::capture(device, file)),
        _ => panic!("{words:?}"),
    }
}

fn milliseconds(word: &str) -> Duration {
    Duration::from_millis(word.parse().unwrap())
}

fn report(result: &impl Serialize) {
    print_line(&serde_json::to_string(result).unwrap());
}

fn print_line(line: &str) {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}").unwrap();
    output.flush().unwrap();
}

/// The name of an error, independent of its wording.
fn error_name(e: &std::io::Error) -> String {
    match e.kind() {
        // A receive time-out is EAGAIN.
        std::io::ErrorKind::WouldBlock => "TimedOut".to_owned(),
        _ if is_destroyed(e) => "ConnectionAborted".to_owned(),
        kind => format!("{kind:?}"),
    }
}

/// Whether an error says that a connected UDP socket was destroyed (`SOCK_DESTROY`): recv(2) gets
/// ECONNABORTED; a send(2) before it finds the socket disconnected (udp_abort in the kernel).
fn is_destroyed(e: &std::io::Error) -> bool {
    let errno = e.raw_os_error().map(nix::errno::Errno::from_raw);
    matches!(errno, Some(nix::errno::Errno::ECONNABORTED | nix::errno::Errno::EDESTADDRREQ))
}
