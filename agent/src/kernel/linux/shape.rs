//! The shape of a map: what a pinned map has to have in common with the one that the object declares.

use std::path::Path;

use aya_obj::EbpfSectionKind;
use sluice_bpf as bpf;

/// The shape of a map, as the object declares it or as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub name: String,
    pub map_type: u32,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    pub flags: u32,
}

/// The maps that an eBPF object declares.
///
/// # Errors
/// The object cannot be parsed.
pub(super) fn declared_shapes(object: &[u8]) -> Result<Vec<Shape>, aya_obj::ParseError> {
    let object = aya_obj::Object::parse(object)?;
    let mut shapes: Vec<Shape> = object
        .maps
        .iter()
        .filter(|(_, m)| {
            matches!(m.section_kind(), EbpfSectionKind::Maps | EbpfSectionKind::BtfMaps)
        })
        .map(|(name, m)| Shape {
            name: name.clone(),
            map_type: m.map_type(),
            key_size: m.key_size(),
            value_size: m.value_size(),
            max_entries: m.max_entries(),
            flags: m.map_flags(),
        })
        .collect();
    shapes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(shapes)
}

/// The shape of a pinned map; `None` if nothing, or another kind of object, is pinned.
pub(super) fn pinned_shape(name: &str, path: &Path) -> Option<Shape> {
    let info = bpf::map_info(bpf::obj_get(path).ok()?).ok()?;
    Some(Shape {
        name: name.to_owned(),
        map_type: info.map_type,
        key_size: info.key_size,
        value_size: info.value_size,
        max_entries: info.max_entries,
        flags: info.flags,
    })
}
