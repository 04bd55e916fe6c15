//! The ABI snapshot: sizes, offsets, numbers and constants of the ABI crate.
//!
//! A program generated from the crate's sources prints them with `size_of`, `align_of` and
//! `offset_of`. The result is compared with `ebpf/abi/abi.snapshot`: maps are pinned under a path
//! that contains `ABI_VERSION`, so a change requires a new version.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use super::Finding;
use super::abi::Abi;
use super::tree::Tree;
use crate::cache::{checkout, target};
use crate::process;

const SNAPSHOT: &str = "ebpf/abi/abi.snapshot";
const VERSION: &str = "ABI_VERSION = ";

const HEADER: &str = "\
# Layout of the data that the eBPF programs and user space share.
# Written by `cargo xtask tidy --update`. A change requires a new ABI_VERSION.
";

/// The snapshot is that of the current sources.
pub fn snapshot(tree: &Tree) -> Result<Vec<Finding>> {
    let current = current(tree)?;
    Ok(compare(tree.get(SNAPSHOT).unwrap_or_default(), &current))
}

/// Writes the snapshot and returns its path.
///
/// # Errors
/// When the layout cannot be computed, or differs from the snapshot of the same version.
pub fn update(tree: &Tree) -> Result<&'static str> {
    let current = current(tree)?;
    if let Some(old) = tree.get(SNAPSHOT) {
        anyhow::ensure!(
            old == current || version(old) != version(&current),
            "the layout changed: raise ABI_VERSION in ebpf/abi/src/lib.rs first"
        );
    }
    fs::write(checkout().join(SNAPSHOT), current)?;
    Ok(SNAPSHOT)
}

fn compare(old: &str, current: &str) -> Vec<Finding> {
    if old == current {
        return Vec::new();
    }
    let advice = if version(old) == version(current) {
        "raise ABI_VERSION, then run `cargo xtask tidy --update`"
    } else {
        "run `cargo xtask tidy --update`"
    };
    let (before, after): (BTreeSet<&str>, BTreeSet<&str>) =
        (old.lines().collect(), current.lines().collect());
    let removed = before.difference(&after).map(|line| format!("- {line}"));
    let added = after.difference(&before).map(|line| format!("+ {line}"));
    let changes: Vec<String> = removed.chain(added).take(10).collect();
    let message = format!("the layout changed; {advice}: {}", changes.join("; "));
    vec![Finding::new(SNAPSHOT, 0, message)]
}

fn version(snapshot: &str) -> Option<&str> {
    snapshot.lines().find_map(|line| line.strip_prefix(VERSION))
}

/// Builds and runs the generated program in a crate below the target directory. It shares
/// compiled dependencies with the workspace.
fn current(tree: &Tree) -> Result<String> {
    let folder = target().join("tidy/abi-layout");
    fs::create_dir_all(folder.join("src"))?;
    let manifest = format!(
        "[package]\nname = \"abi-layout\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
         [dependencies]\nsluice-abi = {{ path = \"{}\" }}\n\n[workspace]\n\n\
         [profile.dev]\ndebug = \"line-tables-only\"\n",
        checkout().join("ebpf/abi").display()
    );
    write_if_changed(&folder.join("Cargo.toml"), &manifest)?;
    write_if_changed(&folder.join("src/main.rs"), &program(&Abi::parse(tree)?))?;
    if !folder.join("Cargo.lock").exists() {
        fs::copy(checkout().join("Cargo.lock"), folder.join("Cargo.lock"))?;
    }
    let mut run = Command::new("cargo");
    run.current_dir(&folder).args(["run", "--quiet", "--target-dir"]).arg(target());
    let printed = process::output_within(&mut run, process::STEP)
        .context("cannot compile the layout of the ABI; is an item not exported in lib.rs?")?;
    Ok(format!("{HEADER}{printed}\n"))
}

fn write_if_changed(path: &std::path::Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// A program that prints the layout of every item.
fn program(abi: &Abi) -> String {
    let mut body = format!("    println!(\"{VERSION}{{}}\", abi::ABI_VERSION);\n");
    for item in &abi.structs {
        let path = &item.path;
        body.push_str(&format!(
            "    println!(\"struct {path}: size {{}}, align {{}}\", size_of::<abi::{path}>(), align_of::<abi::{path}>());\n"
        ));
        for field in &item.fields {
            body.push_str(&format!(
                "    println!(\"    {}: {}: offset {{}}\", offset_of!(abi::{path}, {}));\n",
                field.name, field.kind, field.name
            ));
        }
    }
    for item in &abi.enums {
        let path = &item.path;
        body.push_str(&format!(
            "    println!(\"enum {path}: size {{}}\", size_of::<abi::{path}>());\n"
        ));
        for (variant, label) in &item.variants {
            let label = label.as_ref().map(|label| format!(" {label}")).unwrap_or_default();
            body.push_str(&format!(
                "    println!(\"    {variant} = {{}}{label}\", abi::{path}::{variant} as u64);\n"
            ));
        }
    }
    for path in abi.constants.iter().filter(|path| *path != "ABI_VERSION") {
        body.push_str(&format!("    println!(\"{path} = {{:?}}\", abi::{path});\n"));
    }
    format!("use std::mem::offset_of;\n\nuse sluice_abi as abi;\n\nfn main() {{\n{body}}}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(version: u32, size: u32) -> String {
        format!("{HEADER}{VERSION}{version}\nstruct Key: size {size}, align 4\n")
    }

    #[test]
    fn changed_layout_is_found_with_the_lines_that_changed() {
        assert_eq!(compare(&of(2, 40), &of(2, 40)), []);
        let finding = compare(&of(2, 40), &of(2, 44)).remove(0);
        assert_eq!(
            finding.message,
            "the layout changed; raise ABI_VERSION, then run `cargo xtask tidy --update`: \
             - struct Key: size 40, align 4; + struct Key: size 44, align 4"
        );
        let finding = compare(&of(2, 40), &of(3, 44)).remove(0);
        assert!(finding.message.contains("changed; run `cargo xtask tidy --update`"), "{finding}");
        assert_eq!(compare("", &of(2, 40)).len(), 1, "a missing snapshot is found");
    }

    #[test]
    fn program_prints_every_item() {
        let tree = Tree::of(&[(
            "ebpf/abi/src/lib.rs",
            "pub const ABI_VERSION: u32 = 2; pub struct Key { pub port: u16 } pub enum E { A = 1 }
             pub mod map { pub const MAX: u32 = 8; }",
        )]);
        let program = program(&Abi::parse(&tree).expect("valid Rust"));
        for expected in [
            "size_of::<abi::Key>(), align_of::<abi::Key>()",
            "port: u16: offset {}\", offset_of!(abi::Key, port)",
            "A = {}\", abi::E::A as u64",
            "map::MAX = {:?}\", abi::map::MAX",
        ] {
            assert!(program.contains(expected), "{expected}\nis not in\n{program}");
        }
    }
}
