//! Load generator for `cargo xtask bench`: a client and servers, in pods.
//!
//! ```text
//! netbench server --port 7000
//! netbench client --mode rr --targets 10.96.12.7:7000 --seconds 2
//!   -> [{"mode":"rr","target":"10.96.12.7:7000","operations":81234,"seconds":2.0,"per_second":40617.0,...}]
//! ```
//! The client uses one connection at a time: a run measures the packet path, not the scheduling of
//! threads. `first`, `probe` and `write` print times of CLOCK_MONOTONIC, which all containers of a machine
//! share; `send` prints times of CLOCK_REALTIME.

mod client;
mod clock;
mod cpu;
mod datagram;
mod namespace;
mod server;
mod write;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

/// Load generator: client and server.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Serve clients until killed.
    Server {
        /// TCP and UDP port, on all addresses.
        #[arg(long, default_value_t = 7000)]
        port: u16,
    },
    /// Measure servers in turns of 20 ms, and print one line of JSON.
    Client {
        /// Kind of load.
        #[arg(long)]
        mode: Mode,
        /// Address and port of each server or of its Service.
        #[arg(long, value_delimiter = ',', required = true)]
        targets: Vec<SocketAddr>,
        /// Address of the pod from which each server is measured; requires a privileged process on the node of
        /// the pods. Without it, all servers are measured from where the process is.
        #[arg(long, value_delimiter = ',')]
        from: Vec<IpAddr>,
        /// Duration in seconds, of each.
        #[arg(long, default_value = "2", value_parser = seconds)]
        seconds: Duration,
        /// Stay on this CPU.
        #[arg(long)]
        cpu: Option<usize>,
    },
    /// Keep a process on one CPU, with the threads that it starts from then on.
    Pin {
        /// Its id.
        #[arg(long, default_value_t = 1)]
        pid: i32,
        /// The CPU.
        #[arg(long)]
        cpu: usize,
    },
    /// Send datagrams to servers until each has answered, print one line of JSON and wait until killed.
    First {
        /// Addresses and ports of the servers.
        #[arg(long, value_delimiter = ',', required = true)]
        targets: Vec<SocketAddr>,
        /// Longest time in seconds.
        #[arg(long, default_value = "120", value_parser = seconds)]
        deadline: Duration,
    },
    /// Send a datagram every millisecond and print when they began and ceased to be answered.
    Probe {
        /// Address and port of the server.
        #[arg(long)]
        target: SocketAddr,
        /// Duration in seconds.
        #[arg(long, value_parser = seconds)]
        seconds: Duration,
    },
    /// Send datagrams at irregular intervals of up to 1.2 s, each from another port, and print when each was sent.
    Send {
        /// Address and port of the receiver.
        #[arg(long)]
        target: SocketAddr,
        /// Number of datagrams.
        #[arg(long)]
        count: u32,
    },
    /// Print CLOCK_MONOTONIC in nanoseconds.
    Clock,
    /// Change an object through `kubectl proxy` and print when the API server answered.
    Write(write::Options),
}

/// Bytes of a bulk transfer that are written at once, and acknowledged with one byte.
const BLOCK: usize = 256 * 1024;

/// Kind of load. The first byte of a connection selects it in the server.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Request and response of one byte each, on one connection.
    Rr,
    /// Connect, request and response of one byte each, close.
    Crr,
    /// Bulk transfer; the server acknowledges each [`BLOCK`].
    Stream,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Mode::Rr => "rr",
            Mode::Crr => "crr",
            Mode::Stream => "stream",
        }
    }

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
    let started = clock::now();
    match Args::parse().role {
        Role::Server { port } => server::run(port),
        Role::Pin { pid, cpu } => cpu::pin(pid, cpu),
        Role::Client { mode, targets, from, seconds, cpu } => {
            if let Some(cpu) = cpu {
                cpu::pin(0, cpu)?;
            }
            let report = client::run(mode, client::paths(&targets, &from)?, seconds)?;
            println!("{}", serde_json::to_string(&report)?);
            Ok(())
        }
        Role::First { targets, deadline } => {
            let report = datagram::first(started, &targets, deadline)?;
            println!("{}", serde_json::to_string(&report)?);
            // A container that ends is started again.
            loop {
                std::thread::park();
            }
        }
        Role::Probe { target, seconds } => {
            println!("{}", serde_json::to_string(&datagram::probe(target, seconds)?)?);
            Ok(())
        }
        Role::Send { target, count } => {
            println!("{}", serde_json::to_string(&datagram::send(target, count)?)?);
            Ok(())
        }
        Role::Clock => {
            println!("{started}");
            Ok(())
        }
        Role::Write(options) => {
            println!("{}", serde_json::to_string(&write::run(&options)?)?);
            Ok(())
        }
    }
}
