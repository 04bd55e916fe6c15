//! One file per verb of the specification. Each takes the checked configuration and environment
//! and returns what goes to stdout.

mod add;
mod check;
mod del;
mod gc;
mod status;

use serde_json::{Value, json};

use crate::spec::{CniError, Environment, NetConf, Verb, Version, code};
use sluice_bpf::{error_chain, netlink::Netlink};
use sluice_pod::inventory::{self, HostLinks};
use sluice_pod::lease::{BootInstant, LeaseKey, LockedStore, State, StoreError};

/// Runs one call: `None` means success without output.
///
/// # Errors
/// What the specification wants on stdout.
pub fn run(environment: &Environment, stdin: &str) -> Result<Option<Value>, CniError> {
    if environment.verb == Verb::Version {
        return Ok(Some(version(stdin)));
    }
    let conf = NetConf::parse(stdin)?;
    let since = |first: Version, verb: &str| match conf.version >= first {
        true => Ok(()),
        false => Err(CniError::new(
            code::INCOMPATIBLE_VERSION,
            format!(
                "{verb} exists since cniVersion {first}, the configuration says {}",
                conf.version
            ),
        )),
    };
    match environment.verb {
        Verb::Add => add::add(&conf, environment)
            .map(|outcome| Some(outcome.to_json(conf.version)))
            .map_err(|e| e.about(&environment.owner())),
        Verb::Del => del::del(&conf, environment).map(|()| None),
        Verb::Check => {
            since(Version::V0_4_0, "CHECK")?;
            check::check(&conf, environment).map(|()| None)
        }
        Verb::Gc => {
            since(Version::V1_1_0, "GC")?;
            gc::gc(&conf).map(|()| None)
        }
        Verb::Status => {
            since(Version::V1_1_0, "STATUS")?;
            status::status(&conf).map(|()| None)
        }
        Verb::Version => Ok(Some(version(stdin))),
    }
}

/// VERSION answers in the version asked, if that is known, whatever else stdin holds.
fn version(stdin: &str) -> Value {
    let asked = serde_json::from_str::<Value>(stdin)
        .ok()
        .and_then(|json| Version::parse(json.get("cniVersion")?.as_str()?))
        .unwrap_or(Version::NEWEST);
    json!({ "cniVersion": asked.text(), "supportedVersions": Version::ALL.map(Version::text) })
}

fn key(environment: &Environment) -> LeaseKey {
    LeaseKey { container_id: environment.container_id.clone(), ifname: environment.ifname.clone() }
}

fn now() -> Result<BootInstant, CniError> {
    BootInstant::now().map_err(|e| CniError::caused(code::IO, "read the time since boot", &e))
}

fn store_failed(e: StoreError) -> CniError {
    CniError::caused(code::IO, "the address store failed", &e)
}

fn open_host() -> Result<Netlink, CniError> {
    Netlink::open().map_err(|e| CniError::caused(code::IO, "the kernel gives no netlink", &e))
}

/// Loads the state, from the devices of the host if the file is lost or damaged, and says so on
/// stderr, which runtimes log.
fn load(
    locked: &LockedStore<'_>,
    host: &mut Netlink,
    network: &str,
    now: &BootInstant,
) -> Result<State, CniError> {
    let mut failed = None;
    let loaded = locked
        .load(|| {
            inventory::rebuild_leases(host, network, now).unwrap_or_else(|e| {
                failed = Some(e);
                Vec::new()
            })
        })
        .map_err(store_failed)?;
    // An empty state would hand out addresses of living pods.
    if let Some(e) = failed {
        return Err(CniError::caused(code::TRY_AGAIN, "the address store is lost", &e));
    }
    if let Some(damage) = loaded.damage {
        eprintln!(
            "sluice-cni: the address store was unreadable ({}); it is kept as {}, and {} leases \
             were rebuilt from the host's devices",
            damage.cause,
            damage.moved_to.display(),
            damage.rebuilt
        );
    }
    Ok(loaded.state)
}

/// Whether a lease's pod may still be there; everyone is if the devices cannot be read.
fn liveness(host: &mut Netlink) -> Result<HostLinks, CniError> {
    HostLinks::read(host).map_err(|e| CniError::caused(code::IO, "list the host's devices", &e))
}

fn warn(what: &str, e: &(dyn std::error::Error + 'static)) {
    eprintln!("sluice-cni: {what}: {}", error_chain(e));
}
