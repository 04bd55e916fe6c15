//! The verbs of the specification, one file each. A verb takes the validated configuration and
//! environment and returns what goes to stdout.

mod add;
mod check;
mod del;
mod gc;
mod status;

use std::fmt;

use serde_json::{Value, json};
use sluice_bpf::BpfError;
use sluice_bpf::netlink::{Netlink, NetlinkError};
use sluice_pod::inventory::{self, HostLinks};
use sluice_pod::lease::{BootInstant, Lease, LeaseKey, LockedStore, State, StoreError};

use crate::spec::{CniError, Environment, NetConf, Verb, Version, code};

/// Runs one call; `None` is success without output.
///
/// # Errors
/// The error object of the specification.
pub fn run(environment: &Environment, stdin: &str) -> Result<Option<Value>, CniError> {
    if environment.verb == Verb::Version {
        return Ok(Some(version(stdin)));
    }
    let conf = NetConf::parse(stdin)?;
    match environment.verb {
        Verb::Add => add::add(&conf, environment)
            .map(|result| Some(result.to_json(conf.version)))
            .map_err(|e| e.about(&environment.owner())),
        Verb::Del => del::del(&conf, environment).map(|()| None),
        Verb::Check => {
            require(&conf, "CHECK", Version::V0_4_0)?;
            check::check(&conf, environment)
                .map(|()| None)
                .map_err(|e| e.about(&environment.owner()))
        }
        Verb::Gc => {
            require(&conf, "GC", Version::V1_1_0)?;
            gc::gc(&conf).map(|()| None)
        }
        Verb::Status => {
            require(&conf, "STATUS", Version::V1_1_0)?;
            status::status(&conf).map(|()| None)
        }
        Verb::Version => Ok(Some(version(stdin))),
    }
}

fn version(stdin: &str) -> Value {
    json!({
        "cniVersion": Version::of_answer(stdin).text(),
        "supportedVersions": Version::ALL.map(Version::text),
    })
}

/// Rejects a verb that the configuration's version does not have.
fn require(conf: &NetConf, verb: &str, first: Version) -> Result<(), CniError> {
    if conf.version >= first {
        return Ok(());
    }
    let msg = format!("{verb} requires cniVersion {first}; the configuration has {}", conf.version);
    Err(CniError::new(code::INCOMPATIBLE_VERSION, msg))
}

fn key(environment: &Environment) -> LeaseKey {
    LeaseKey { container_id: environment.container_id.clone(), ifname: environment.ifname.clone() }
}

fn now() -> Result<BootInstant, CniError> {
    BootInstant::now()
        .map_err(|e| CniError::caused(code::IO, "cannot read the time since boot", &e))
}

fn store_failed(e: StoreError) -> CniError {
    CniError::caused(code::IO, "cannot use the lease file", &e)
}

fn dataplane_missing(code: u32, e: &BpfError) -> CniError {
    let msg = "the dataplane is not loaded on this node; check that the Sluice agent is running";
    CniError::caused(code, msg, e)
}

fn open_host() -> Result<Netlink, CniError> {
    Netlink::open().map_err(|e| CniError::caused(code::IO, "cannot reach the kernel's network", &e))
}

fn read_links(host: &mut Netlink) -> Result<HostLinks, CniError> {
    HostLinks::read(host)
        .map_err(|e| CniError::caused(code::IO, "cannot list the node's network devices", &e))
}

/// Loads the leases of `network`; if the file is lost or damaged, from the host's devices.
fn load(
    locked: &LockedStore<'_>,
    host: &mut Netlink,
    network: &str,
    now: &BootInstant,
) -> Result<State, CniError> {
    load_or(locked, || inventory::rebuild_leases(host, network, now))
}

fn load_or(
    locked: &LockedStore<'_>,
    rebuild: impl FnOnce() -> Result<Vec<Lease>, NetlinkError>,
) -> Result<State, CniError> {
    let mut failed = None;
    let loaded = locked
        .load(|| {
            rebuild().unwrap_or_else(|e| {
                failed = Some(e);
                Vec::new()
            })
        })
        .map_err(store_failed)?;
    // An empty state would allocate addresses of running pods.
    if let Some(e) = failed {
        let msg = "the lease file is lost and cannot be rebuilt yet";
        return Err(CniError::caused(code::TRY_AGAIN, msg, &e));
    }
    if let Some(damage) = loaded.damage {
        warn(format_args!(
            "lease file was corrupt and is kept as {}; rebuilt {} leases from the network devices: {}",
            damage.moved_to.display(),
            damage.rebuilt,
            damage.cause
        ));
    }
    Ok(loaded.state)
}

/// Writes a warning to stderr, which container runtimes log.
fn warn(message: impl fmt::Display) {
    eprintln!("sluice-cni: {message}");
}

#[cfg(test)]
mod tests;
