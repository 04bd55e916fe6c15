//! `sluice service`.

use std::net::IpAddr;
use std::path::Path;

use sluice_abi::{Frontend, frontend_flags};

use super::{ask_agent, end, maps, protocol};
use crate::api::{Request, ServiceRow};
use crate::cli::table::align;
use crate::cli::{Output, print_json};

/// Flags of `sluice service`.
#[derive(clap::Args, Debug)]
pub struct ServiceArgs {
    /// Only Services whose `namespace/name` or address contains this.
    filter: Option<String>,
}

/// `sluice service`.
pub fn services(socket: &Path, args: &ServiceArgs, output: Output) -> anyhow::Result<()> {
    let mut rows = match ask_agent::<Vec<ServiceRow>>(socket, &Request::Services) {
        Some(rows) => rows,
        None => services_of_kernel()?,
    };
    if let Some(filter) = &args.filter {
        rows.retain(|r| r.service.contains(filter) || r.address.contains(filter));
    }
    if output == Output::Json {
        return print_json(&rows);
    }
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|r| {
            vec![
                r.service.clone(),
                r.port_name.clone(),
                address_of(r),
                if r.backends.is_empty() {
                    "none: refused".to_owned()
                } else {
                    r.backends.join(" ")
                },
            ]
        })
        .collect();
    print!("{}", align(&["SERVICE", "PORT", "ADDRESS", "BACKENDS"], &cells));
    Ok(())
}

fn services_of_kernel() -> anyhow::Result<Vec<ServiceRow>> {
    let maps = maps()?;
    let mut frontends = maps.frontends.entries()?;
    frontends.retain(|(_, f)| f.flags & frontend_flags::WILDCARD == 0);
    frontends.sort_by_key(|(k, _)| *k);
    let backend = |f: &Frontend, i: u32| -> Option<String> {
        let id = maps.slots.lookup(&f.slots_offset.checked_add(i)?).ok()??;
        let b = maps.backends.lookup(&id).ok()??;
        Some(end(b.addr, b.port))
    };
    Ok(frontends
        .into_iter()
        .map(|(k, f)| ServiceRow {
            service: "-".to_owned(),
            port_name: String::new(),
            address: IpAddr::from(k.addr).to_string(),
            port: k.port.get(),
            protocol: protocol(k.proto),
            backends: (0..f.slots_len).filter_map(|i| backend(&f, i)).collect(),
        })
        .collect())
}

/// `address:port/protocol`.
fn address_of(row: &ServiceRow) -> String {
    match row.address.contains(':') {
        true => format!("[{}]:{}/{}", row.address, row.port, row.protocol),
        false => format!("{}:{}/{}", row.address, row.port, row.protocol),
    }
}
