//! Names that operators search for are in the documents.

use std::collections::BTreeSet;

use anyhow::Result;
use proc_macro2::{TokenStream, TokenTree};

use super::Finding;
use super::abi::{self, Abi};
use super::source;
use super::tree::Tree;

const PACKET_PATH: &str = "ebpf/README.md";
const AGENT: &str = "agent/README.md";
const METRICS: &str = "agent/src/observe/";
const METRIC_PREFIX: &str = "sluice_";
const PROGRAM_MAPS: &str = "ebpf/programs/src/maps/mod.rs";

/// Per-CPU memory of one program run, which contains no state.
const SCRATCH_MAPS: [&str; 2] = ["PACKET", "SCRATCH"];

/// Enums of the ABI whose labels are documented.
const LABELS: [&str; 3] = ["DropReason", "Outcome", "EventLoss"];

/// Drop reasons, outcomes, reasons of lost events, maps and programs are in the document of the packet path, metrics in
/// that of the agent. A row of the table of maps names a map.
pub fn names(tree: &Tree) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let abi = Abi::parse(tree)?;
    for name in LABELS {
        if !abi.enums.iter().any(|item| item.path == name) {
            findings.push(Finding::new(abi::SRC, 0, format!("no enum {name} with labels")));
        }
    }
    let labels =
        abi.enums.iter().filter(|item| LABELS.contains(&item.path.as_str())).flat_map(|item| {
            item.variants.iter().map(|(variant, label)| {
                let kind = match item.path.as_str() {
                    "DropReason" => "drop reason",
                    "Outcome" => "outcome",
                    _ => "reason of a lost event",
                };
                (kind, label.clone().unwrap_or_else(|| variant.clone()))
            })
        });
    let maps = maps(tree)?;
    let mut expected: Vec<(&str, String)> = labels.collect();
    expected.extend(maps.iter().map(|name| ("map", name.clone())));
    expected.extend(
        strings(tree, "ebpf/abi/src/program.rs")?.into_iter().map(|name| ("program", name)),
    );
    let documented = words(tree.get(PACKET_PATH).unwrap_or_default());
    for (kind, name) in expected {
        if !documented.contains(&name) {
            findings.push(Finding::new(PACKET_PATH, 0, format!("{kind} `{name}` is not listed")));
        }
    }
    for (line, name) in map_rows(tree.get(PACKET_PATH).unwrap_or_default()) {
        if !maps.contains(&name) {
            findings.push(Finding::new(PACKET_PATH, line, format!("no map is called `{name}`")));
        }
    }
    let documented = words(tree.get(AGENT).unwrap_or_default());
    for name in metrics(tree)? {
        // The text format adds _total to the names of counters.
        if !documented.contains(&name) && !documented.contains(&format!("{name}_total")) {
            findings.push(Finding::new(AGENT, 0, format!("metric `{name}` is not listed")));
        }
    }
    Ok(findings)
}

/// Names of maps: those of the ABI, and those that only the programs use.
fn maps(tree: &Tree) -> Result<BTreeSet<String>> {
    let mut names: BTreeSet<String> = strings(tree, "ebpf/abi/src/map.rs")?.into_iter().collect();
    if let Some(text) = tree.get(PROGRAM_MAPS) {
        for item in source::parse(PROGRAM_MAPS, text)?.items {
            let syn::Item::Static(item) = item else { continue };
            let is_map = item.attrs.iter().any(|attribute| {
                attribute.path().is_ident("map") || attribute.path().is_ident("btf_map")
            });
            if is_map && !SCRATCH_MAPS.contains(&item.ident.to_string().as_str()) {
                names.insert(item.ident.to_string());
            }
        }
    }
    Ok(names)
}

/// String literals in the constants of a file.
fn strings(tree: &Tree, path: &str) -> Result<Vec<String>> {
    let mut strings = Vec::new();
    let Some(text) = tree.get(path) else { return Ok(strings) };
    for item in source::parse(path, text)?.items {
        if let syn::Item::Const(item) = item {
            let text = syn::spanned::Spanned::span(&*item.expr).source_text().unwrap_or_default();
            literals(text.parse().unwrap_or_default(), &mut strings);
        }
    }
    Ok(strings)
}

fn literals(tokens: TokenStream, strings: &mut Vec<String>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => literals(group.stream(), strings),
            TokenTree::Literal(literal) => {
                let text = literal.to_string();
                if let Some(text) = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
                    strings.push(text.to_owned());
                }
            }
            _ => {}
        }
    }
}

/// Names of metrics: string literals that consist of the prefix and a name.
fn metrics(tree: &Tree) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for (path, text) in tree.with_extension(METRICS, "rs") {
        let tokens: TokenStream =
            text.parse().map_err(|error| anyhow::anyhow!("cannot parse {path}: {error}"))?;
        let mut strings = Vec::new();
        literals(tokens, &mut strings);
        names.extend(strings.into_iter().filter(|text| {
            text.starts_with(METRIC_PREFIX)
                && text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        }));
    }
    Ok(names)
}

/// Words of a document. `connect4/6` counts as `connect4` and `connect6`.
fn words(text: &str) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    for word in text.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '/')) {
        for part in word.split('/') {
            words.insert(part.to_owned());
        }
        if let Some((stem, "6")) = word.rsplit_once('/') {
            words.insert(format!("{}6", stem.trim_end_matches('4')));
        }
    }
    words
}

/// First cells of the table below a heading that ends in "Maps", with line numbers.
fn map_rows(text: &str) -> Vec<(usize, String)> {
    let mut inside = false;
    let mut rows = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.starts_with('#') {
            inside = line.trim_end().ends_with("Maps");
        }
        if let Some(cell) = line.strip_prefix("| `").filter(|_| inside) {
            let name = cell.split('`').next().unwrap_or_default();
            rows.push((number + 1, name.to_owned()));
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(packet_path: &str, agent: &str) -> Vec<String> {
        let tree = Tree::of(&[
            ("ebpf/abi/src/lib.rs", "mod reason; pub mod map; pub mod program;"),
            (
                "ebpf/abi/src/reason.rs",
                "numbered! { DropReason { Spoofed = 1 \"spoofed_source\", } }
                 numbered! { Outcome { ToPod = 1 \"to_pod\", } }
                 numbered! { EventLoss { BufferFull = 2 \"buffer_full\", } }",
            ),
            (
                "ebpf/abi/src/map.rs",
                "pub const PODS: &str = \"PODS\"; pub const PODS_MAX: u32 = 8;",
            ),
            (
                "ebpf/abi/src/program.rs",
                "pub const FROM_POD: &str = \"from_pod\"; pub const S: [&str; 2] = [\"connect4\", \"connect6\"];",
            ),
            (PROGRAM_MAPS, "#[map] pub static WAITS: LruHashMap<u32, u32> = x();"),
            (
                "agent/src/observe/metrics.rs",
                "fn f() { g(\"sluice_syncs\", \"help of sluice_x\") }",
            ),
            (PACKET_PATH, packet_path),
            (AGENT, agent),
        ]);
        names(&tree).expect("checked").into_iter().map(|f| f.to_string()).collect()
    }

    const LISTED: &str = "`spoofed_source` `to_pod` `buffer_full` `from_pod` connect4/6\n## Maps\n| `PODS` |\n| `WAITS` |";

    #[test]
    fn complete_documents_have_no_findings() {
        assert_eq!(messages(LISTED, "`sluice_syncs_total`"), Vec::<String>::new());
    }

    #[test]
    fn each_missing_name_is_found() {
        for (missing, kind) in [
            ("spoofed_source", "drop reason"),
            ("to_pod", "outcome"),
            ("buffer_full", "reason of a lost event"),
            ("from_pod", "program"),
            ("PODS", "map"),
            ("WAITS", "map"),
        ] {
            let expected = format!("{PACKET_PATH}: {kind} `{missing}` is not listed");
            let text = LISTED.replace(missing, "other");
            assert!(messages(&text, "sluice_syncs").contains(&expected), "{missing}");
        }
        let expected = [format!("{AGENT}: metric `sluice_syncs` is not listed")];
        assert_eq!(messages(LISTED, ""), expected);
    }

    #[test]
    fn row_of_a_map_that_does_not_exist_is_found() {
        let text = format!("{LISTED}\n| `OLD` |");
        let expected = [format!("{PACKET_PATH}:5: no map is called `OLD`")];
        assert_eq!(messages(&text, "sluice_syncs"), expected);
    }
}
