//! The verbs of the specification, one file each. A verb takes the validated configuration and
//! environment and returns what goes to stdout.

mod add;
mod check;
mod del;
mod gc;
mod status;

use std::fmt;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};
use sluice_bpf::netlink::Netlink;
use sluice_bpf::{BpfError, error_chain};
use sluice_pod::inventory::{self, HostLinks, OpenError};
use sluice_pod::lease::{
    BootInstant, Entry, Lease, LeaseKey, LockedStore, Number, Store, StoreError,
};
use sluice_pod::{Kept, Notice, NoticeVerb, Reclaim, netns};

use crate::spec::{CniError, Environment, NetConf, Verb, Version, code};

/// Runs one call; `None` is success without output.
///
/// # Errors
/// The error object of the specification.
pub fn run(environment: &Environment, stdin: &str) -> Result<Option<Value>, CniError> {
    let start = Instant::now();
    if environment.verb == Verb::Version {
        return Ok(Some(version(stdin)));
    }
    let conf = NetConf::parse(stdin)?;
    let mut pod = None;
    let result = call(&conf, environment, &mut pod);
    let code = result.as_ref().map_or_else(|e| e.code, |_| 0);
    inform_agent(&conf, environment, start, code, pod);
    result
}

fn call(
    conf: &NetConf,
    environment: &Environment,
    pod: &mut Option<Number>,
) -> Result<Option<Value>, CniError> {
    match environment.verb {
        Verb::Add => add::add(conf, environment)
            .map(|(result, number)| {
                *pod = Some(number);
                Some(result.to_json(conf.version))
            })
            .map_err(|e| e.about(&environment.owner())),
        Verb::Del => del::del(conf, environment).map(|()| None),
        Verb::Check => {
            require(conf, "CHECK", Version::V0_4_0)?;
            check::check(conf, environment)
                .map(|()| None)
                .map_err(|e| e.about(&environment.owner()))
        }
        Verb::Gc => {
            require(conf, "GC", Version::V1_1_0)?;
            gc::gc(conf).map(|()| None)
        }
        Verb::Status => {
            require(conf, "STATUS", Version::V1_1_0)?;
            status::status(conf).map(|()| None)
        }
        Verb::Version => Ok(None),
    }
}

/// Informs the agent, without waiting for it. It need not run.
fn inform_agent(
    conf: &NetConf,
    environment: &Environment,
    start: Instant,
    code: u32,
    pod: Option<Number>,
) {
    let verb = match environment.verb {
        Verb::Add => NoticeVerb::Add,
        Verb::Del => NoticeVerb::Del,
        Verb::Check => NoticeVerb::Check,
        Verb::Gc => NoticeVerb::Gc,
        Verb::Status => NoticeVerb::Status,
        Verb::Version => return,
    };
    let notice = Notice {
        verb,
        code,
        microseconds: u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX),
        container_id: environment.container_id.clone(),
        pod_uid: environment.pod.uid.clone(),
        index: pod.map(|number| number.index),
        generation: pod.map(|number| number.generation),
    };
    let _ = notice.send(&conf.state_dir);
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
    CniError::caused(code::IO, "cannot use the leases", &e)
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

/// Locks the leases and prepares them, which is needed once: after an upgrade, or if they are lost. Returns
/// also the present time, which is read under the lock: it can have been waited for, and a lease and the reuse
/// delay of an address begin under it.
fn lock<'a>(
    store: &'a Store,
    conf: &NetConf,
    holder: &str,
    host: &mut Netlink,
) -> Result<(LockedStore<'a>, BootInstant), CniError> {
    let locked = store.lock(holder).map_err(store_failed)?;
    let now = now()?;
    let opened = inventory::open_leases(&locked, host, &conf.name, &now).map_err(open_failed)?;
    if opened.migrated + opened.rebuilt > 0 {
        warn(format_args!(
            "{} leases taken over from the former version, {} rebuilt from the network devices",
            opened.migrated, opened.rebuilt
        ));
    }
    if let Some(kept) = opened.kept {
        warn(format_args!("lease file was corrupt and is kept as {}", kept.display()));
    }
    Ok((locked, now))
}

/// An empty state would allocate addresses of running pods.
fn open_failed(e: OpenError) -> CniError {
    match e {
        OpenError::Store(e) => store_failed(e),
        OpenError::Rebuild(e) => {
            let msg = "the leases are lost and cannot be rebuilt yet";
            CniError::caused(code::TRY_AGAIN, msg, &e)
        }
    }
}

/// Rebuilds leases whose files are damaged from their devices; the lock is held.
fn mend(
    locked: &LockedStore<'_>,
    damaged: &[Entry],
    conf: &NetConf,
    host: &mut Netlink,
    now: &BootInstant,
) -> Result<(), CniError> {
    if damaged.is_empty() {
        return Ok(());
    }
    let drafts = inventory::rebuild_leases(host, &conf.name, now)
        .map_err(|e| open_failed(OpenError::Rebuild(e)))?;
    for entry in damaged {
        warn(format_args!(
            "lease of {} was corrupt and is rebuilt if its pod exists",
            entry.address
        ));
    }
    let links = read_links(host)?;
    let reclaim = Reclaim { locked, pins: &conf.pins, now };
    let kept = reclaim.damaged(damaged, &links, &drafts).map_err(store_failed)?;
    warn_of_kept(&kept);
    Ok(())
}

/// Whether the network namespace of a lease exists; the container runtime's paths are this process's.
fn netns_exists(lease: &Lease) -> bool {
    netns::exists(Path::new(&lease.netns), lease.netns_cookie)
}

fn warn_of_kept(kept: &[Kept]) {
    for lease in kept {
        warn(error_chain(lease));
    }
}

/// Writes a warning to stderr, which container runtimes log.
fn warn(message: impl fmt::Display) {
    eprintln!("sluice-cni: {message}");
}

#[cfg(test)]
mod tests;
