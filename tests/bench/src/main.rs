//! Load between two pods: what `cargo xtask bench` runs inside them.
//!
//! ```text
//! netbench server --port 7000
//! netbench client --mode rr --target 10.96.12.7:7000 --seconds 2
//!   -> {"mode":"rr","operations":81234,"seconds":2.0,"per_second":40617.0,"p50_us":23.1,"p99_us":61.0}
//! ```
//! One thread a connection, one connection at a time: what is measured is the path of a packet,
//! not the scheduling of many.

mod client;
mod server;

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

/// Load between two pods.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Answers every client until it is killed.
    Server {
        /// TCP port on all addresses.
        #[arg(long, default_value_t = 7000)]
        port: u16,
    },
    /// Loads one server and prints one JSON line.
    Client {
        /// What to measure.
        #[arg(long)]
        mode: Mode,
        /// Address and port of the server, or of the Service before it.
        #[arg(long)]
        target: SocketAddr,
        /// How long.
        #[arg(long, default_value = "2", value_parser = seconds)]
        seconds: Duration,
    },
}

/// What is measured; the first byte of a connection tells the server.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// One byte there, one byte back, on one connection.
    Rr,
    /// Connect, one byte there, one byte back, close.
    Crr,
    /// As many bytes as will go, counted by the server.
    Stream,
}

impl Mode {
    fn tag(self) -> u8 {
        match self {
            Mode::Rr | Mode::Crr => b'r',
            Mode::Stream => b's',
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|e| format!("{text}: {e}"))?;
    Duration::try_from_secs_f64(seconds).map_err(|e| format!("{text}: {e}"))
}

fn main() -> anyhow::Result<()> {
    match Args::parse().role {
        Role::Server { port } => server::run(port),
        Role::Client { mode, target, seconds } => {
            let report = client::run(mode, target, seconds)?;
            println!("{}", serde_json::to_string(&report)?);
            Ok(())
        }
    }
}
